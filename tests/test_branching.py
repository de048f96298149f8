import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwaxl.tree.branching import divide_interval
from nuwaxl.tree.timeline import Timeline


def depths_taken(num_frames: int, segment_length: int) -> list[int]:
    taken = []
    for depth in range(1, 12):
        try:
            taken.append(Timeline(num_frames, segment_length, depth).num_levels)
        except ValueError:
            continue
    return taken


@pytest.mark.parametrize("segment_length", [3, 4, 8, 16])
def test_the_depth_is_the_smallest_that_reaches_every_frame(segment_length):
    for depth in (1, 2):
        largest = Timeline.full(depth, segment_length).num_frames
        assert Timeline(largest, segment_length).num_levels == depth
        assert Timeline(largest + 1, segment_length).num_levels == depth + 1
        with pytest.raises(ValueError, match=rf"`depth` must be at least {depth + 1} .* {depth} "):
            Timeline(largest + 1, segment_length, depth)


def all_branchings(num_frames: int, max_parts: int, depth: int) -> dict[int, int]:
    """The fewest frames evaluated for each n_0, by trying every branching."""
    num_gaps, cheapest = num_frames - 1, {}
    for parts in itertools.product(range(1, max_parts + 1), repeat=depth):
        counts = list(itertools.accumulate(parts, int.__mul__))
        if counts[-1] < num_gaps or min(parts[1:], default=2) < 2:
            continue
        if depth > 1 and counts[-2] >= num_gaps:
            continue
        grids = [[i * num_gaps // count for i in range(count + 1)] for count in counts[:-1]]
        runs = sum(right - left > 1 for grid in grids for left, right in itertools.pairwise(grid))
        frames_evaluated = num_frames + 2 * runs
        cheapest[parts[0]] = min(cheapest.get(parts[0], frames_evaluated), frames_evaluated)
    return cheapest


@pytest.mark.parametrize("segment_length", [4, 5, 7, 10, 12])
@pytest.mark.parametrize("extra_depth", [0, 1])
def test_most_keyframes_within_the_bound_of_frames_evaluated(segment_length, extra_depth):
    for num_frames in (segment_length + 1, 23, 50, 82, 83, 101):
        depth = Timeline(num_frames, segment_length).num_levels + extra_depth
        if (segment_length - 1) ** depth > 3000:
            continue
        plan = Timeline(num_frames, segment_length, depth)
        cheapest = all_branchings(num_frames, segment_length - 1, depth)
        bound = 1.25 * num_frames + 2 * segment_length
        if min(cheapest.values()) > bound:
            bound = min(cheapest.values()) * 17 / 16
        most_keyframes = max(n for n, cost in cheapest.items() if cost <= bound)
        assert plan.branching[0] == most_keyframes
        assert plan.frames_evaluated == cheapest[most_keyframes]


@pytest.mark.parametrize("num_frames", [17, 100, 227, 240, 1024, 3377, 20_000, 10**6, 10**9])
def test_runs_of_16_keep_the_bound_at_any_length(num_frames):
    plan = Timeline(num_frames)
    assert plan.frames_evaluated <= 1.25 * num_frames + 32
    assert len(plan.keyframes) == 16


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(3, 17))
def test_every_level_of_a_depth_that_is_asked_for_has_new_frames(num_frames, segment_length):
    taken = depths_taken(num_frames, segment_length)
    assert taken == list(range(taken[0], taken[-1] + 1))
    for depth in taken:
        plan = Timeline(num_frames, segment_length, depth)
        assert plan.num_levels == depth
        assert all(plan.segments_per_level)


def test_a_depth_with_nothing_left_to_make_is_refused():
    assert depths_taken(100, 16) == [2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(ValueError, match="`depth` must be at most 8 for 100 frames, got 9"):
        Timeline(100, depth=9)
    assert depths_taken(1, 16) == depths_taken(2, 16) == [1]
    assert depths_taken(3, 16) == [1, 2]


# ---- One interval ---------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_parts_are_never_wider_or_more_than_allowed(data):
    max_parts = data.draw(st.integers(2, 16))
    reach = data.draw(st.integers(1, 40))
    gap = data.draw(st.integers(1, max_parts * reach))
    first = data.draw(st.integers(0, 1000))
    inside = st.integers(first + 1, first + gap - 1)
    pins = tuple(sorted(data.draw(st.sets(inside, max_size=30)))) if gap > 1 else ()
    num_parts = data.draw(st.integers(1, max_parts))
    frames = divide_interval(
        first, first + gap, pins, num_parts=num_parts, max_parts=max_parts, reach=reach
    )
    assert (frames[0], frames[-1]) == (first, first + gap)
    widths = [right - left for left, right in itertools.pairwise(frames)]
    assert len(widths) <= max_parts
    assert all(1 <= width <= reach for width in widths)
    if not pins:
        assert max(widths) - min(widths) <= 1
    if reach == 1:
        assert set(pins) <= set(frames)


def test_no_other_pin_fits():
    """Five parts of 10 frames: pins on the tens cost nothing, any other costs the spare part."""
    frames = divide_interval(0, 40, (5, 10, 16, 20, 33), num_parts=4, max_parts=5, reach=10)
    assert {10, 20} < set(frames)
    assert len(set(frames) & {5, 16, 33}) == 1
    assert len(frames) == 6
