import itertools
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwaxl.tree.branching import choose_branching
from nuwaxl.tree.timeline import Segment, Timeline, Window

GOLDEN = json.loads((Path(__file__).parent / "golden" / "timeline.json").read_text())
quick = settings(max_examples=30, deadline=None)


@st.composite
def timelines(draw, pins: bool = True) -> Timeline:
    """Of any length, depth and segment length; perhaps with pins, single ones and a run of them."""
    num_frames = draw(st.integers(1, 150))
    segment_length = draw(st.integers(3, 17))
    depth = None
    if draw(st.booleans()):
        smallest = Timeline(num_frames, segment_length).num_levels
        depth = draw(st.integers(smallest, deepest(num_frames)))
    pinned: set[int] = set()
    if pins and draw(st.booleans()):
        frames = st.integers(0, num_frames - 1)
        first = draw(frames)
        pinned = draw(st.sets(frames, max_size=8))
        pinned |= set(range(first, min(num_frames, first + draw(st.integers(0, 30)))))
    return Timeline(num_frames, segment_length, depth, tuple(pinned))


def deepest(num_frames: int) -> int:
    """Level 0 with the two ends alone, then halves, as long as there are frames between."""
    depth = 1
    while num_frames > 2 and 2 ** (depth - 1) < num_frames - 1:
        depth += 1
    return depth


def gaps(frames: tuple[int, ...]) -> list[int]:
    return [right - left for left, right in itertools.pairwise(frames)]


# ---- The paper's numbers --------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_full_trees_have_the_papers_frames_and_runs(depth):
    plan = Timeline.full(depth)
    assert plan.num_frames == (16, 226, 3376, 50626)[depth - 1]
    assert plan.num_segments == (1, 16, 241, 3616)[depth - 1]
    assert plan == Timeline(plan.num_frames, depth=depth)
    assert plan.branching == (15,) * depth


def test_strides_of_depth_3_are_225_15_and_1():
    plan = Timeline.full(3)
    for level, stride in enumerate((225, 15, 1)):
        assert {gap for segment in plan.level(level) for gap in gaps(segment.frames)} == {stride}


def test_full_trees_have_no_short_run():
    assert {len(segment.frames) for segment in Timeline.full(3).segments()} == {16}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["call"])
def test_plans_do_not_change_unnoticed(case):
    plan = eval(case["call"], {"Timeline": Timeline})
    assert list(plan.branching) == case["branching"]
    assert list(plan.segments_per_level) == case["segments_per_level"]
    assert plan.frames_evaluated == case["frames_evaluated"]
    assert list(plan.keyframes) == case["keyframes"]
    assert [list(s.frames) for s in plan.ancestry(case["frame"])] == case["ancestry"]


# ---- Every frame once -----------------------------------------------------------------------


@quick
@given(timelines())
def test_every_frame_is_new_once_or_pinned(plan):
    made = [frame for segment in plan.segments() for frame in segment.new_frames]
    assert sorted([*made, *plan.pinned]) == list(range(plan.num_frames))


@quick
@given(timelines())
def test_given_frames_exist_before_a_run_in_both_orders(plan):
    for order in (plan.segments, plan.display_order):
        known = set(plan.pinned)
        for segment in order():
            assert known.issuperset(segment.given_frames)
            known.update(segment.new_frames)
    assert set(plan.segments()) == set(plan.display_order())


@quick
@given(timelines())
def test_a_run_holds_2_to_l_frames_and_its_ends_are_given_below_level_0(plan):
    for segment in plan.segments():
        assert 2 <= len(segment.frames) <= plan.segment_length or plan.num_frames == 1
        assert segment.frames == tuple(sorted(set(segment.frames)))
        for frame, is_given in zip(segment.frames, segment.given, strict=True):
            is_end = segment.level > 0 and frame in (segment.frames[0], segment.frames[-1])
            assert is_given == (is_end or plan.is_pinned(frame))


@quick
@given(timelines())
def test_indices_are_unique_and_ascend_in_time(plan):
    for level in range(plan.num_levels):
        segments = list(plan.level(level))
        assert all(segment.level == level for segment in segments)
        indices = [segment.index for segment in segments]
        assert indices == sorted(set(indices))
        for before, after in itertools.pairwise(segments):
            assert before.frames[-1] <= after.frames[0]


@quick
@given(timelines(pins=False))
def test_frames_are_spread_evenly(plan):
    for level in range(plan.num_levels):
        widths = [gap for segment in plan.level(level) for gap in gaps(segment.frames)]
        assert max(widths, default=0) - min(widths, default=0) <= 1


@quick
@given(timelines(pins=False))
def test_an_index_is_the_number_of_the_interval(plan):
    for level in range(1, plan.num_levels):
        above = {0, *plan.keyframes}
        for segment in itertools.chain.from_iterable(map(plan.level, range(level))):
            above.update(segment.frames)
        intervals = list(itertools.pairwise(sorted(above)))
        for segment in plan.level(level):
            assert intervals[segment.index] == (segment.frames[0], segment.frames[-1])


# ---- Relations ------------------------------------------------------------------------------


@quick
@given(timelines())
def test_parents_and_children_agree(plan):
    tops = [segment for segment in plan.segments() if plan.parent(segment) is None]
    reached = list(tops)
    for segment in reached:
        children = list(plan.children(segment))
        assert all(plan.parent(child) == segment for child in children)
        reached += children
    assert len(reached) == plan.num_segments
    assert set(reached) == set(plan.segments())
    if not plan.pinned:
        assert tops == list(plan.level(0))


@quick
@given(timelines())
def test_each_frame_knows_its_segment(plan):
    for segment in plan.segments():
        assert all(plan.segment_of(frame) == segment for frame in segment.new_frames)
        for frame in segment.given_frames:
            source = plan.source(segment, frame)
            assert frame in plan.pinned if source is None else frame in source.new_frames
    assert all(plan.segment_of(frame) is None for frame in plan.pinned)


@quick
@given(timelines(), st.data())
def test_the_ancestry_of_a_frame_is_enough_and_has_nothing_to_spare(plan, data):
    frame = data.draw(st.integers(0, plan.num_frames - 1))
    ancestry = plan.ancestry(frame)
    assert len(ancestry) <= plan.num_levels
    known = set(plan.pinned)
    for segment in ancestry:
        assert known.issuperset(segment.given_frames)
        known.update(segment.new_frames)
    assert frame in known
    wanted = {frame, *(f for segment in ancestry for f in segment.given_frames)}
    assert all(wanted & set(segment.new_frames) for segment in ancestry)


def test_the_source_of_a_new_frame_is_refused():
    plan = Timeline.full(2, 4)
    child = next(plan.level(1))
    assert plan.source(child, 3) == next(plan.level(0))
    with pytest.raises(ValueError, match=r"given frames \(0, 3\), got 1"):
        plan.source(child, 1)


# ---- Pins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", [(100,), (0, 239), (7, 8, 9), (1, 50, 51, 120, 200, 238)])
def test_level_0_holds_all_pins_that_fit(pinned):
    plan = Timeline(240, pinned=pinned)
    root = next(plan.level(0))
    assert set(pinned) <= set(root.frames)
    assert set(root.given_frames) == set(pinned)
    assert len(root.frames) == 16


def test_pins_on_the_grid_of_a_full_tree_go_first():
    plan = Timeline(226, pinned=(7, 30, 45, 220))
    assert plan.keyframes == tuple(range(0, 226, 15))
    assert [s.frames for s in plan.level(1) if 7 in s.frames] == [tuple(range(16))]


def test_many_pins_at_level_0_are_spread_over_the_film():
    plan = Timeline(1000, pinned=tuple(range(0, 1000, 5)))
    assert len(plan.keyframes) == 16
    assert set(plan.keyframes) - {999} <= set(plan.pinned)
    assert max(gaps(plan.keyframes)) < 2 * 1000 / 15


def test_a_grid_without_pins_nearby_stays_even():
    plan = Timeline(240, pinned=(37,))
    assert 37 in plan.keyframes
    assert max(gaps(plan.keyframes)) <= 18


def test_runs_that_pins_leave_without_new_frames_do_not_exist():
    plan = Timeline(5, 3, pinned=(0, 2, 4))
    assert [segment.frames for segment in plan.segments()] == [(0, 1, 2), (2, 3, 4)]
    assert all(plan.parent(segment) is None for segment in plan.segments())
    assert plan.segments_per_level == (0, 2)
    plan = Timeline(100, pinned=tuple(range(100)))
    assert list(plan.segments()) == []
    assert plan.frames_evaluated == plan.num_segments == 0


def test_the_order_of_pins_does_not_matter():
    assert Timeline(100, pinned=(9, 3, 9)) == Timeline(100, pinned=(3, 9))


# ---- Counts ---------------------------------------------------------------------------------


@quick
@given(timelines())
def test_counts_are_those_of_the_segments(plan):
    per_level = tuple(len(list(plan.level(level))) for level in range(plan.num_levels))
    assert plan.segments_per_level == per_level
    assert plan.num_segments == sum(per_level)
    assert plan.frames_evaluated == sum(len(segment.frames) for segment in plan.segments())


def test_a_billion_frames_take_no_memory_and_no_time():
    choose_branching.cache_clear()
    tracemalloc.start()
    began = time.process_time()
    plan = Timeline(10**9, pinned=(0, 123_456_789, 999_999_999))
    ancestry = plan.ancestry(500_000_001)
    windows = list(plan.windows(700_000_000, 700_000_100))
    some = list(itertools.islice(plan.display_order(), 100))
    level = list(itertools.islice(plan.level(plan.num_levels - 1), 100))
    assert plan.frames_evaluated <= 1.25e9 + 32
    seconds = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ancestry[-1].new_frames.count(500_000_001) == 1
    assert len(some) == len(level) == 100
    assert windows[0].frames[0] <= 700_000_000 < 700_000_099 <= windows[-1].frames[-1]
    assert peak < 1_000_000  # bytes
    assert seconds < 2  # about 0.1 s, traced; a machine may be busy


# ---- Windows --------------------------------------------------------------------------------


@quick
@given(timelines())
def test_windows_tile_the_film_and_each_reads_one_segment(plan):
    kept: list[int] = []
    for window in plan.windows():
        assert gaps(window.frames) == [1] * (len(window.frames) - 1)
        assert len(window.frames) <= plan.segment_length
        kept += window.frames[: window.keep]
        makers = {plan.segment_of(frame) for frame in window.frames[1:-1]} - {None}
        assert len(makers) <= 1
        for maker in makers:
            assert maker is not None
            assert set(window.frames) <= set(maker.frames)
    assert kept == list(range(plan.num_frames))


@quick
@given(timelines(), st.data())
def test_a_range_gets_the_same_windows_as_the_film(plan, data):
    stop = data.draw(st.integers(0, plan.num_frames))
    start = data.draw(st.integers(0, stop))
    expected = [
        window
        for window in plan.windows()
        if any(start <= frame < stop for frame in window.frames[: window.keep])
    ]
    assert list(plan.windows(start, stop)) == expected


def test_windows_of_a_full_tree_are_its_last_runs():
    plan = Timeline.full(2, 4)
    assert [window.frames for window in plan.windows()] == [s.frames for s in plan.level(1)]
    assert [window.keep for window in plan.windows()] == [3, 3, 4]
    assert list(Timeline(16).windows()) == [Window(tuple(range(16)), 16)]


def test_a_window_is_no_shorter_than_it_must_be():
    """Frames 0..9 of level 0 are consecutive: one window, not nine."""
    plan = Timeline(12, 11)
    assert plan.keyframes == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11)
    assert [window.frames for window in plan.windows()] == [tuple(range(10)), (9, 10, 11)]


# ---- Edges and errors -----------------------------------------------------------------------


def test_the_shortest_films():
    assert list(Timeline(1).segments()) == [Segment(0, 0, (0,), (False,))]
    assert list(Timeline(2).segments()) == [Segment(0, 0, (0, 1), (False, False))]
    assert list(Timeline(2, 2).segments()) == list(Timeline(2).segments())
    assert list(Timeline(1, 2).windows()) == [Window((0,), 1)]
    assert list(Timeline(1, pinned=(0,)).segments()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`num_frames` must be a whole number of at least 1, got 0"),
        ((-5,), "`num_frames` .* got -5"),
        ((True,), "`num_frames` .* got True"),
        ((10, 1), "`segment_length` must be a whole number of at least 2, got 1"),
        ((3, 2), "`segment_length` must be at least 3 for a film of more than 2 frames, got 2"),
        ((10, 4, 0), "`depth` must be a whole number of at least 1, got 0"),
        ((10, 4, None, (10,)), "`pinned` frames must be numbers 0 to 9, got 10"),
        ((10, 4, None, (-1,)), "`pinned` frames must be numbers 0 to 9, got -1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        Timeline(*arguments)


def test_frames_levels_and_ranges_outside_the_film_are_refused():
    plan = Timeline(10, 4)
    for call in (plan.segment_of, plan.ancestry):
        with pytest.raises(ValueError, match="`frame` must be numbers 0 to 9, got 10"):
            call(10)
    with pytest.raises(ValueError, match="`level` must be 0 to 1, got 2"):
        plan.level(2)
    for start, stop in ((-1, 5), (5, 11), (6, 5)):
        with pytest.raises(ValueError, match="`start` and `stop`"):
            plan.windows(start, stop)
    assert list(plan.windows(5, 5)) == []
