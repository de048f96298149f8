import itertools
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LinearModel, film, orchestrate

from nuwaxl.executors.local import LocalExecutor
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.branching import RunLengths, choose_full_branching
from nuwaxl.tree.coarse_to_fine import Edit
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

quick = settings(max_examples=20, deadline=None)
WAN = RunLengths(most=9, step=4)


@st.composite
def lengths(draw) -> RunLengths:
    step = draw(st.sampled_from([1, 2, 3, 4, 8]))
    return RunLengths(most=step * draw(st.integers(2, 5)) + 1, step=step)


@st.composite
def timelines(draw, pins: bool = True) -> Timeline:
    """Of any length, with any allowed numbers of frames for each role; perhaps with pins."""
    num_frames = draw(st.integers(1, 200))
    pinned = draw(st.sets(st.integers(0, num_frames - 1), max_size=6)) if pins else set()
    roles = draw(lengths()), draw(lengths())
    return Timeline.in_lengths(num_frames, *roles, pinned=tuple(pinned))


# ---- Every run fits, every frame once -------------------------------------------------------


@quick
@given(timelines())
def test_every_run_has_an_allowed_number_of_frames(plan):
    assert plan.lengths is not None
    for segment in plan.segments():
        allowed = plan.lengths[min(segment.level, 1)].gaps
        assert len(segment.frames) - 1 in allowed
        assert len({b - a for a, b in itertools.pairwise(segment.frames)}) == 1


@quick
@given(timelines())
def test_every_frame_of_the_film_is_new_once_or_pinned(plan):
    made = [frame for segment in plan.segments() for frame in segment.new_frames]
    assert len(made) == len(set(made))
    shown = [frame for frame in made if frame < plan.num_frames]
    assert sorted([*shown, *plan.pinned]) == list(range(plan.num_frames))


@quick
@given(timelines())
def test_given_frames_exist_before_a_run_also_beyond_the_end(plan):
    for order in (plan.segments, plan.display_order):
        known = set(plan.pinned)
        for segment in order():
            assert known.issuperset(segment.given_frames)
            known.update(segment.new_frames)
    for frame in {0, plan.num_frames // 3, plan.num_frames - 2, plan.num_frames - 1} - {-1}:
        known = set(plan.pinned)
        for segment in plan.ancestry(frame):
            assert known.issuperset(segment.given_frames)
            known.update(segment.new_frames)
        assert frame in known


@quick
@given(timelines())
def test_no_run_lies_beyond_the_films_end(plan):
    assert all(s.frames[0] < max(1, plan.num_frames - 1) for s in plan.segments())


@quick
@given(timelines())
def test_counts_are_those_of_the_runs(plan):
    runs = list(plan.segments())
    levels = [sum(s.level == level for s in runs) for level in range(plan.num_levels)]
    assert list(plan.segments_per_level) == levels
    assert plan.frames_evaluated == sum(len(segment.frames) for segment in runs)


@quick
@given(timelines(), st.data())
def test_windows_of_a_range_show_each_of_its_frames_once(plan, data):
    start = data.draw(st.integers(0, plan.num_frames - 1))
    stop = data.draw(st.integers(start + 1, plan.num_frames))
    whole = list(plan.windows())
    assert [f for window in whole for f in window.shown] == list(range(plan.num_frames))
    part = list(plan.windows(start, stop))
    assert part == [w for w in whole if w.shown[0] < stop and w.shown[-1] >= start]


# ---- The choice -----------------------------------------------------------------------------


@quick
@given(timelines(pins=False))
def test_the_tree_reaches_least_beyond_the_end_of_those_nearly_cheapest(plan):
    """Against all trees of that depth whose runs grow longer with the level."""
    assert plan.lengths is not None
    level0, local = plan.lengths
    gaps = [each for each in local.gaps if each > 1]
    costs = []
    for parts in itertools.product(level0.gaps, *[gaps] * (plan.num_levels - 1)):
        if prod(parts) >= plan.num_frames - 1 and list(parts[1:]) == sorted(parts[1:]):
            runs = [-(-max(1, plan.num_frames - 1) // prod(parts[k:])) for k in range(len(parts))]
            runs[0] = 1
            cost = sum(n * (p + 1) for n, p in zip(runs, parts, strict=True))
            costs.append((prod(parts) + 1, cost))
    least = min(cost for _, cost in costs)
    nearly = [each for each in costs if each[1] <= 9 / 8 * least]
    assert (plan.num_planned, plan.frames_evaluated) == min(nearly)


def test_wans_runs_of_81_frames_make_30_seconds_of_16_frames_exactly():
    wan = RunLengths(81, 4)
    assert Timeline.in_lengths(481, wan, wan).branching == (8, 60)
    stills = RunLengths(129, 1, still=True)
    assert Timeline.in_lengths(481, stills, wan).branching == (6, 80)


def test_a_film_of_one_run_has_the_next_allowed_length():
    assert [len(Timeline.in_lengths(n, WAN, WAN).root.frames) for n in (1, 2, 5, 6, 9)] == [
        5,
        5,
        5,
        9,
        9,
    ]


def test_stills_get_a_level_between_them_as_soon_as_a_run_fits():
    stills = RunLengths(20, still=True)
    assert Timeline.in_lengths(4, stills, WAN).num_levels == 1
    assert Timeline.in_lengths(5, stills, WAN).branching == (1, 4)
    assert Timeline.in_lengths(18, stills, WAN).num_levels == 2


def test_the_depth_asked_for_is_kept():
    assert Timeline.in_lengths(17, WAN, WAN, depth=2).branching == (4, 4)


@pytest.mark.parametrize(
    ("num_frames", "depth", "local", "line"),
    [
        (100, 1, WAN, "`depth` must be at least 3 to reach 100 frames"),
        (9, 3, WAN, "`depth` must be less than 3 for 9 frames"),
        (100, None, RunLengths(2), "`segment_length` must be at least 3"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(num_frames, depth, local, line):
    with pytest.raises(ValueError, match=line):
        Timeline.in_lengths(num_frames, WAN, local, depth=depth)


@pytest.mark.parametrize(
    ("most", "step", "line"),
    [
        (80, 4, "must be a multiple of 4 plus 1, such as 77 or 81, got 80"),
        (1, 8, "`segment_length` must be a whole number of at least 2, got 1"),
        (4, 4, "such as 5 or 9, got 4"),
        (9, 0, "`step` must be a whole number of at least 1, got 0"),
    ],
)
def test_a_length_off_the_grid_is_refused(most, step, line):
    with pytest.raises(ValueError, match=line):
        RunLengths(most, step)


def test_long_films_are_planned_without_trying_every_tree():
    lengths = RunLengths(16)
    parts = choose_full_branching(10**7, lengths, lengths, None)
    assert prod(parts) >= 10**7 - 1


# ---- The whole algorithm --------------------------------------------------------------------


def whole(plan: Timeline, **edits) -> dict[int, torch.Tensor]:
    return film(orchestrate(plan, **edits))


@settings(max_examples=6, deadline=None)
@given(timelines(pins=False), st.data())
def test_a_part_of_the_film_is_the_part_of_the_whole_and_runs_what_was_forecast(plan, data):
    start = data.draw(st.integers(0, plan.num_frames - 1))
    stop = data.draw(st.integers(start + 1, plan.num_frames))
    model = LinearModel()
    orchestrator = orchestrate(plan, LocalExecutor(model), MemoryStore(), model=model)
    forecast = [job.key for job in orchestrator.missing(start, stop)]
    part = film(orchestrator, start, stop)
    assert sorted(job.key for call in model.calls for job in call) == sorted(forecast)
    everything = whole(plan)
    assert list(everything) == list(range(plan.num_frames))
    assert all(torch.equal(part[f], everything[f]) for f in part)
    assert set(range(start, stop)) <= set(part)


def test_a_preview_shows_the_films_keyframes_only():
    plan = Timeline.in_lengths(40, WAN, WAN)
    assert plan.num_planned > 40
    shown = [
        frame for window, _ in orchestrate(plan).windows(max_level=0) for frame in window.shown
    ]
    assert shown == list(plan.keyframes) == [f for f in plan.root.frames if f < 40]


def test_every_order_gives_the_same_film():
    plan = Timeline.in_lengths(60, WAN, RunLengths(5, 4))
    made = {}
    for order in ("display", "level"):
        for job, latents in orchestrate(plan, store=MemoryStore(keep_released=True)).run(order):
            made.setdefault(job.key, []).append(latents)
    assert all(len(both) == 2 and torch.equal(*both) for both in made.values())


@pytest.mark.parametrize(("start", "stop"), [(3, 7), (30, 40), (0, 40)])
def test_an_edit_changes_its_range_only_and_every_run_keeps_its_length(start, stop):
    plan = Timeline.in_lengths(40, WAN, WAN)
    story = Storyline.parse("a cat sleeps", duration=5)
    model = LinearModel()
    before = whole(plan)
    edit = Edit(start, stop, story, seed=1)
    orchestrator = orchestrate(plan, LocalExecutor(model), model=model, edits=[edit])
    after = film(orchestrator)
    same = [frame for frame in range(40) if torch.equal(before[frame], after[frame])]
    # The oracle's keyframes do not know the seed, so only what must stay is claimed.
    assert set(range(40)) - set(range(start, stop)) <= set(same)
    for call in model.calls:
        assert all((len(job.segment.frames) - 1) % 4 == 0 for job in call)
    rerun = {job.segment.frames for call in model.calls for job in call if job.edit == 1}
    assert (plan.root.frames in rerun) == any(start <= f < stop for f in plan.keyframes)


def test_a_film_made_longer_keeps_its_frames():
    short, long = (Timeline.in_lengths(n, WAN, WAN) for n in (40, 70))
    story = Storyline.parse("a dog runs", duration=9)
    before = whole(short)
    orchestrator = orchestrate(short, edits=[Edit(40, 70, story, 0, timeline=long)])
    after = film(orchestrator)
    assert list(after) == list(range(70))
    assert all(torch.equal(before[frame], after[frame]) for frame in before)
