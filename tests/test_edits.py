import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LATENT_SHAPE, LinearModel, film, orchestrate
from torch import Tensor

from nuwaxl.executors.local import LocalExecutor
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import Edit, SegmentJob
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

SMALL = Timeline(65, 5)  # keyframes 0 16 32 48 64
PAPER = Timeline.full(3)
DOG = Storyline.parse("a dog runs", duration=500)


class SensitiveModel(LinearModel):
    """Each new frame is a number of its own for anything else in its job."""

    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        self.calls.append(list(jobs))
        latents = given_latents.clone()
        for row, job in zip(latents, jobs, strict=True):
            known = [row[i].flatten()[0].item() for i, g in enumerate(job.segment.given) if g]
            for at, is_given in enumerate(job.segment.given):
                if not is_given:
                    told = f"{known} {job.prompts} {job.seed} {job.times} {job.segment.frames[at]}"
                    digest = hashlib.sha256(told.encode()).digest()
                    row[at] = int.from_bytes(digest[:3], "big") / 2**24
        return latents


class Studio:
    """One store, and the film as each list of edits makes it."""

    def __init__(self, timeline: Timeline, **fixed):
        self.timeline, self.fixed = timeline, fixed
        self.store = MemoryStore(keep_released=True)

    def plan(self, edits: Sequence[Edit], model: LinearModel, batch_size: int = 3, **changes):
        options = self.fixed | {"story": DOG, "edits": list(edits)} | changes
        executor = LocalExecutor(model, batch_size=batch_size)
        return orchestrate(self.timeline, executor, self.store, model=model, **options)

    def make(self, *edits: Edit, **changes) -> tuple[dict[int, Tensor], int]:
        model = SensitiveModel()
        orchestrator = self.plan(edits, model, **changes)
        forecast = [job.key for job in orchestrator.missing()]
        made = film(orchestrator)
        ran = [job.key for call in model.calls for job in call]
        assert sorted(ran) == sorted(forecast), "a dry run is exact"
        return made, len(ran)


def changed(before: dict[int, Tensor], after: dict[int, Tensor]) -> set[int]:
    return {frame for frame in before if not torch.equal(before[frame], after[frame])}


def cat(start: int, stop: int, below: Storyline = DOG, seed: int = 0, **changes) -> Edit:
    story = below.with_prompt(start / 8, stop / 8, "a cat sleeps")
    return Edit(start, stop, story, seed, **changes)


def touched(timeline: Timeline, start: int, stop: int) -> int:
    return sum(any(start <= f < stop for f in s.new_frames) for s in timeline.segments())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 64), st.integers(1, 64))
def test_an_edit_changes_the_frames_of_its_range_and_no_other(start, length):
    stop = min(65, start + length)
    studio = Studio(SMALL)
    before, _ = studio.make()
    after, num_runs = studio.make(cat(start, stop))
    assert changed(before, after) == set(range(start, stop))
    assert num_runs == touched(SMALL, start, stop)


def test_eight_seconds_of_the_paper_s_film_are_6_to_8_of_241_runs():
    studio = Studio(PAPER)
    before, num_runs = studio.make(batch_size=16)
    assert num_runs == 241
    after, num_runs = studio.make(cat(1000, 1064), batch_size=16)
    assert changed(before, after) == set(range(1000, 1064))
    assert num_runs == touched(PAPER, 1000, 1064) == 6
    # With a keyframe (1125) in the range, one run at level 0, and on both sides of it.
    after, num_runs = studio.make(cat(1100, 1164), batch_size=16)
    assert changed(before, after) == set(range(1100, 1164))
    assert num_runs == touched(PAPER, 1100, 1164) == 8


def test_jobs_of_an_edit_get_what_is_outside_as_given_under_its_old_identity():
    edit = cat(30, 34)  # keyframe 32
    old = Studio(SMALL).plan([], SensitiveModel())
    new = Studio(SMALL).plan([edit], SensitiveModel())
    (root,) = SMALL.level(0)
    before, after = old.job(root), new.job(root)
    assert after.segment.given == (True, True, False, True, True)
    assert [source and source.key for source in after.sources] == [
        before.key,
        before.key,
        None,
        before.key,
        before.key,
    ]
    assert after.prompts == ("a dog runs", "a dog runs", "a cat sleeps", "a dog runs", "a dog runs")
    leaf = next(s for s in SMALL.level(2) if s.frames[0] == 28)  # 28 .. 32
    assert new.job(leaf).segment.given == (True, True, False, False, True)
    untouched = next(s for s in SMALL.level(2) if s.frames[0] == 40)
    assert new.job(untouched) == old.job(untouched)


def test_a_key_stands_for_all_that_a_run_depends_on():
    """Its given frames, its prompts, its times and its seed: nothing else tells two runs apart."""
    edits = [cat(10, 40), Edit(30, 50, DOG, 7), cat(10, 40), longer(100, 65)]
    jobs: dict[str, SegmentJob] = {}
    for count in range(len(edits) + 1):
        for job in Studio(SMALL).plan(edits[:count], SensitiveModel()).missing():
            known = jobs.setdefault(job.key, job)
            assert replace(job, edit=0) == replace(known, edit=0)
    assert len(set(map(str, (replace(job, edit=0) for job in jobs.values())))) == len(jobs)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=4))
def test_edits_upon_edits_keep_to_their_ranges(ranges):
    studio = Studio(SMALL)
    before, _ = studio.make()
    edits: list[Edit] = []
    for seed, (start, length) in enumerate(ranges, 1):
        stop = min(65, start + length)
        edits.append(Edit(start, stop, DOG, seed))
        after, num_runs = studio.make(*edits)
        assert changed(before, after) == set(range(start, stop))
        assert num_runs <= touched(SMALL, start, stop)
        before = after
    assert studio.make(*edits)[1] == 0
    assert studio.make(*edits[:-1])[1] == 0, "going back runs nothing"


def test_an_edit_of_a_film_that_was_never_made_is_the_same_film():
    edit = cat(10, 40)
    studio = Studio(SMALL)
    studio.make()
    after, _ = studio.make(edit)
    fresh, num_runs = Studio(SMALL).make(edit)
    assert changed(after, fresh) == set()
    # Of the old film only what the new one rests on.
    assert touched(SMALL, 10, 40) < num_runs < SMALL.num_segments + touched(SMALL, 10, 40)


def test_batch_size_order_and_random_access_change_no_frame_of_an_edited_film():
    edits = [cat(10, 40), Edit(30, 50, DOG, 7)]
    whole, _ = Studio(SMALL).make(*edits)
    assert changed(whole, Studio(SMALL).make(*edits, batch_size=1)[0]) == set()
    by_level = Studio(SMALL)
    for _ in by_level.plan(edits, SensitiveModel()).run("level"):
        pass
    made, num_runs = by_level.make(*edits)
    assert changed(whole, made) == set()
    assert num_runs == 0
    for frame in (0, 9, 10, 29, 30, 32, 49, 50, 64):
        part = film(Studio(SMALL).plan(edits, SensitiveModel()), frame, frame + 1)
        assert torch.equal(part[frame], whole[frame])


@pytest.mark.parametrize("order", ["level", "display"])
def test_run_makes_each_shown_segment_of_an_edited_film(order):
    studio = Studio(SMALL)
    edits = [cat(10, 40)]
    jobs = [job for job, _ in studio.plan(edits, SensitiveModel()).run(order)]
    shown = {job.key for job in jobs}
    assert len(shown) == len(jobs)
    assert {job.edit for job in jobs} == {0, 1}
    assert studio.make(*edits)[1] == 0


def test_memory_stays_bounded_when_an_edited_film_is_streamed():
    studio = Studio(Timeline(257, 5))
    studio.store = MemoryStore()
    held = []
    for _ in studio.plan([cat(40, 200)], SensitiveModel()).windows():
        held.append(len(studio.store))
    assert max(held) < 40


# ---- Pictures, other seeds, longer films ----------------------------------------------------


def test_a_reroll_is_an_edit_with_another_seed():
    studio = Studio(SMALL)
    before, _ = studio.make()
    after, _ = studio.make(Edit(20, 30, DOG, seed=5))
    assert changed(before, after) == set(range(20, 30))


def test_a_picture_pinned_later_is_shown_and_its_surroundings_follow():
    studio = Studio(SMALL)
    before, _ = studio.make()
    pictures = {"rose": torch.rand(LATENT_SHAPE)}
    pin = Edit(36, 45, DOG, 0, pinned={40: "rose"})
    after, num_runs = studio.make(pin, edit_pictures=pictures)
    assert torch.equal(after[40], pictures["rose"])
    assert changed(before, after) == set(range(36, 45))
    assert num_runs == touched(SMALL, 36, 45)
    later, _ = studio.make(pin, cat(39, 42), edit_pictures=pictures)
    assert torch.equal(later[40], pictures["rose"]), "an edit around it keeps the picture"
    alone, num_runs = studio.make(Edit(7, 8, DOG, 0, pinned={7: "rose"}), edit_pictures=pictures)
    assert changed(before, alone) == {7}
    assert num_runs == 0


def test_pins_of_the_first_film_survive_edits():
    pinned = {7: torch.rand(LATENT_SHAPE), 32: torch.rand(LATENT_SHAPE)}
    studio = Studio(Timeline(65, 5, pinned=(7, 32)), pinned=pinned)
    before, _ = studio.make()
    after, _ = studio.make(cat(0, 40))
    assert changed(before, after) == set(range(40)) - {7, 32}


def longer(num_frames: int, old: int, seed: int = 0) -> Edit:
    return Edit(old, num_frames, DOG, seed, timeline=Timeline(num_frames, 5))


@pytest.mark.parametrize("num_frames", [66, 70, 100, 257])
def test_a_longer_film_keeps_every_frame_it_had(num_frames):
    studio = Studio(SMALL)
    before, _ = studio.make()
    edit = longer(num_frames, 65)
    after, num_runs = studio.make(edit)
    assert list(after) == list(range(num_frames))
    assert changed(before, after) == set()
    assert edit.timeline is not None
    assert num_runs <= touched(edit.timeline, 65, num_frames)


def test_edits_work_across_the_old_end_of_a_longer_film():
    studio = Studio(SMALL)
    edits = [cat(50, 60), longer(100, 65)]
    before, _ = studio.make(*edits)
    after, _ = studio.make(*edits, Edit(55, 75, DOG, 3))
    assert changed(before, after) == set(range(55, 75))
    preview = studio.plan([*edits, Edit(55, 75, DOG, 3)], SensitiveModel()).windows(max_level=0)
    for window, latents in preview:
        for frame, frame_latents in zip(window.shown, latents[window.skip :], strict=False):
            assert torch.equal(frame_latents, after[frame])


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (Edit(5, 5, DOG, 0), "0 <= start < stop <= 65, got 5 and 5"),
        (Edit(60, 66, DOG, 0), "got 60 and 66"),
        (Edit(5, 9, DOG, 0, pinned={9: "rose"}), "must lie in its range"),
        (replace(longer(80, 65), start=70), "all frames that were not there before"),
        (Edit(5, 9, DOG, 0, timeline=Timeline(60, 5)), "all frames that were not there before"),
    ],
)
def test_edits_that_cannot_be_are_refused(edit, line):
    with pytest.raises(ValueError, match=line):
        Studio(SMALL).plan([edit], LinearModel())


# ---- What keeps its key, as docs/projects.md says -------------------------------------------


def keys(timeline: Timeline = SMALL, *edits: Edit, max_level: int | None = None, **changes) -> set:
    plan = Studio(timeline).plan(edits, SensitiveModel(), **changes)
    return {job.key for job in plan.missing(max_level=max_level)}


def test_deepening_keeps_every_run():
    levels = [keys(max_level=level) for level in (0, 1, None)]
    assert [len(each) for each in levels] == [1, 5, 21]
    assert levels[0] < levels[1] < levels[2]


@pytest.mark.parametrize(
    ("timeline", "changes"),
    [
        (Timeline(257, 5), {}),  # more frames, as deep a tree as they need
        (Timeline(66, 5), {}),  # one frame more
        (Timeline(65, 5, depth=4), {}),
        (Timeline(65, 9), {}),
        (SMALL, {"fps": 12}),
        (SMALL, {"seed": 1}),
        (SMALL, {"sampling": "30 steps"}),
    ],
)
def test_another_film_from_the_start_keeps_no_run(timeline: Timeline, changes: dict):
    assert keys().isdisjoint(keys(timeline, **changes))


def test_another_story_from_the_start_keeps_what_is_not_below_a_run_that_reads_it():
    between_keyframes = DOG.with_prompt(50 / 8, 60 / 8, "a cat sleeps")  # 48 and 64
    kept = keys() & keys(story=between_keyframes)
    assert len(kept) == 21 - 1 - 4, "all but the run of 48 to 64 and those below it"
    at_a_keyframe = DOG.with_prompt(48 / 8, 49 / 8, "a cat sleeps")
    assert keys().isdisjoint(keys(story=at_a_keyframe))


def test_extending_again_and_again_runs_no_old_run():
    studio = Studio(SMALL)
    studio.make()
    edits: list[Edit] = []
    for old, num_frames in ((65, 66), (66, 100), (100, 257)):
        edits.append(longer(num_frames, old))
        known = set(studio.store._latents)
        runs = studio.make(*edits)[1]
        assert runs == len(set(studio.store._latents) - known) > 0
        assert known < set(studio.store._latents)
