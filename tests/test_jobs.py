import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LATENT_SHAPE, LinearModel, RecordingStore, film, orchestrate

from nuwaxl.executors.local import LocalExecutor
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

SMALL = Timeline(65, 5)  # full: 1 + 4 + 16 segments of 5 frames, keyframes 0 16 32 48 64


def keys(orchestrator) -> dict:
    return {
        segment: orchestrator.job(segment).key for segment in orchestrator.plan.timeline.segments()
    }


def changed(before: dict, after: dict) -> set:
    return {segment for segment in before if before[segment] != after[segment]}


def descendants(timeline: Timeline, segments: set) -> set:
    """The segments, and all that are made from their frames, directly or not."""
    found = set(segments)
    for segment in timeline.segments():
        sources = {timeline.source(segment, frame) for frame in segment.given_frames}
        if sources & found:
            found.add(segment)
    return found


def test_keys_stay_the_same_from_release_to_release():
    orchestrator = orchestrate(SMALL)
    (root,) = SMALL.level(0)
    leaf = list(SMALL.level(2))[5]
    # Printed by orchestrate(Timeline(65, 5)).job(segment).key[:16] when the format was fixed.
    assert orchestrator.job(root).key[:16] == "9f8591a4675984ff"
    assert orchestrator.job(leaf).key[:16] == "cb3f06078cb792ca"


def test_segments_where_the_prompt_changes_are_known_and_run_apart():
    # Frames 0-14 a dog, 15-30 a cat, a mouse for a moment at 37, else a cat.
    scenes = {0: "a dog", 15 / 8: "a cat", 37 / 8: "a mouse", 38 / 8: "a cat"}
    model = LinearModel()
    orchestrator = orchestrate(
        SMALL,
        LocalExecutor(model, batch_size=16),
        story=Storyline.parse(scenes, duration=65 / 8),
    )
    film(orchestrator)
    made = [[(job.segment.frames[0], job.change) for job in jobs] for jobs in model.calls]
    assert all(len({change for _, change in jobs}) == 1 for jobs in made)
    leaves = dict(pair for jobs in made for pair in jobs if pair[0] in (12, 16, 36, 40))
    assert leaves == {12: "cut", 16: "none", 36: "begins", 40: "none"}


def test_every_segment_has_a_key_of_its_own():
    assert len(set(keys(orchestrate(SMALL)).values())) == SMALL.num_segments


@pytest.mark.parametrize("change", [{"seed": 1}, {"fps": 12}, {"sampling": "50 steps"}])
def test_seed_fps_and_settings_change_every_key(change):
    assert changed(keys(orchestrate(SMALL)), keys(orchestrate(SMALL, **change))) == set(
        SMALL.segments()
    )


def test_another_model_changes_every_key():
    other = LinearModel()
    other.fingerprint = "another"
    before, after = keys(orchestrate(SMALL)), keys(orchestrate(SMALL, model=other))
    assert changed(before, after) == set(SMALL.segments())


def test_batch_size_and_store_change_no_key():
    executor = LocalExecutor(LinearModel(), batch_size=7, pad_batches=True)
    assert keys(orchestrate(SMALL)) == keys(orchestrate(SMALL, executor, RecordingStore()))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 64), st.integers(1, 64))
def test_a_prompt_edit_changes_the_segments_it_touches_and_their_descendants(start, length):
    stop = min(65, start + length)
    story = Storyline.parse("a dog runs", duration=65 / 8)
    edited = story.with_prompt(start / 8, stop / 8, "a cat sleeps")
    touched = {s for s in SMALL.segments() if any(start <= f < stop for f in s.frames)}
    before, after = keys(orchestrate(SMALL, story=story)), keys(orchestrate(SMALL, story=edited))
    assert changed(before, after) == descendants(SMALL, touched)
    # Level 0 sees the prompts of the whole film, but only at its own frames.
    if any(start <= frame < stop for frame in SMALL.keyframes):
        assert len(changed(before, after)) == SMALL.num_segments
    else:
        assert len(changed(before, after)) <= 1 + 4


def test_jobs_carry_times_and_the_prompt_in_force_at_each():
    story = Storyline.parse(["a dog runs", "a cat sleeps"], duration=65 / 8)
    job = orchestrate(SMALL, story=story).job(next(SMALL.level(0)))
    assert job.times == (0, 2, 4, 6, 8)
    assert job.prompts == ("a dog runs",) * 3 + ("a cat sleeps",) * 2
    assert job.sources == (None,) * 5


def test_another_pinned_picture_changes_the_keys_of_what_is_made_from_it():
    # 7 lies between keyframes: all that changes is its own leaf.
    timeline = Timeline(65, 5, pinned=(7,))
    before = keys(orchestrate(timeline, pinned={7: torch.zeros(LATENT_SHAPE)}))
    after = keys(orchestrate(timeline, pinned={7: torch.ones(LATENT_SHAPE)}))
    users = {s for s in timeline.segments() if 7 in s.frames}
    assert changed(before, after) == descendants(timeline, users)


def test_a_pinned_frame_can_be_known_by_its_picture():
    timeline = Timeline(9, 3, pinned=(4,))
    options = [
        {"pinned": {4: torch.zeros(LATENT_SHAPE) + noise}, "pinned_identities": {4: "picture"}}
        for noise in (0, 1e-6)
    ]
    assert keys(orchestrate(timeline, **options[0])) == keys(orchestrate(timeline, **options[1]))


def test_jobs_are_remembered_for_few_segments(monkeypatch):
    monkeypatch.setattr("nuwaxl.tree.jobs._MAX_JOBS_REMEMBERED", 8)
    orchestrator = orchestrate(SMALL)
    assert keys(orchestrator) == keys(orchestrate(SMALL))
    assert len(orchestrator.plan._jobs) == 8
    assert list(film(orchestrator)) == list(range(65))
