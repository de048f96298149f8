from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.baselines import HierarchyTimeline, SequentialTimeline, planned_film
from nuwaxl.evaluation.rows import critical_path, make_row, plan_of, real_keyframes
from nuwaxl.evaluation.stories import known_film
from nuwaxl.toon import Scene, Story
from nuwaxl.tree.timeline import Timeline

PLANS: list[Any] = [SequentialTimeline, HierarchyTimeline]
SAMPLING = SamplingConfig(num_inference_steps=2, guidance_scale=1.0)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("num_frames", [1, 2, 15, 16, 17, 30, 31, 47, 226])
def test_every_frame_is_new_once_and_given_only_when_it_exists(plan: Any, num_frames: int) -> None:
    timeline = plan(num_frames)
    exist: set[int] = set()
    for segment in timeline.display_order():
        assert exist.issuperset(segment.given_frames)
        assert exist.isdisjoint(segment.new_frames)
        assert len(segment.frames) <= 16
        assert all(timeline.segment_of(frame) == segment for frame in segment.new_frames)
        exist.update(segment.frames)
    assert exist == set(range(num_frames))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("num_frames", [1, 16, 31, 40])
def test_windows_yield_every_frame_once_in_order(plan: Any, num_frames: int) -> None:
    timeline = plan(num_frames)
    kept = [frame for w in timeline.windows() for frame in w.frames[: w.keep]]
    assert kept == list(range(num_frames))
    middle = num_frames // 2
    part = [frame for w in timeline.windows(middle, middle + 1) for frame in w.frames[: w.keep]]
    assert middle in part


@pytest.mark.parametrize("plan", PLANS)
def test_counts_relations_and_ancestry_agree_with_the_order(plan: Any) -> None:
    timeline = plan(60)
    order = list(timeline.display_order())
    assert timeline.num_segments == len(order) == sum(timeline.segments_per_level)
    assert timeline.frames_evaluated == sum(len(segment.frames) for segment in order)
    assert all(child in order for segment in order for child in timeline.children(segment))
    needed = timeline.ancestry(59)
    assert needed[-1] == timeline.segment_of(59)
    assert [segment for segment in order if segment in needed] == sorted(needed, key=order.index)


def test_a_tree_waits_for_its_depth_and_a_chain_for_its_length() -> None:
    assert critical_path(Timeline(226)) == 2
    assert critical_path(SequentialTimeline(226)) == SequentialTimeline(226).num_segments == 19
    assert critical_path(HierarchyTimeline(226)) == 2
    assert critical_path(HierarchyTimeline(1024)) == 7


@pytest.mark.parametrize("overlap", [0, 9])
def test_an_overlap_leaves_half_of_a_segment_new(overlap: int) -> None:
    with pytest.raises(ValueError, match="`overlap` must be 1 to 8"):
        SequentialTimeline(60, overlap=overlap)


def test_a_sequential_plan_has_no_pins() -> None:
    with pytest.raises(ValueError, match="`pinned` must be empty"):
        SequentialTimeline(60, pinned=(3,))


@pytest.mark.parametrize("row", ["sequential", "hierarchy"])
def test_baselines_make_a_film_on_the_weights_of_the_tree(row: str) -> None:
    scene = Scene("dog", "meadow", "day", "run", "right", 0.0, 2.0)
    known = known_film(Story((scene,), 2.0), 11, 8.0)
    timeline = plan_of(row, 11, 4)

    def frames(start: int = 0, stop: int | None = None) -> np.ndarray:
        film = planned_film(tiny_pipeline(), timeline, known, sampling=SAMPLING, seed=3)
        return np.stack(list(film.frames(start, stop)))

    whole = frames()
    assert whole.shape == (11, 16, 16, 3)
    assert np.array_equal(frames(6, 9), whole[6:9])
    assert whole.std(axis=0).max() > 0


@pytest.mark.parametrize("num_frames", [17, 226, 1024])
def test_between_real_keyframes_the_tree_is_the_same_without_its_first_run(num_frames: int) -> None:
    tree, local = plan_of("tree", num_frames, 16), plan_of("local", num_frames, 16)
    assert local.pinned == tree.keyframes
    below = [segment.frames for segment in tree.segments() if segment.level > 0]
    assert [segment.frames for segment in local.segments()] == below
    assert local.num_segments == tree.num_segments - 1


def test_the_local_row_holds_real_keyframes_and_makes_the_rest() -> None:
    scene = Scene("dog", "meadow", "day", "run", "right", 0.0, 2.0)
    known = known_film(Story((scene,), 2.0), 11, 8.0)
    pipeline, timeline = tiny_pipeline(), plan_of("local", 11, 4)
    keyframes = real_keyframes(known, timeline, pipeline, 16)
    film = planned_film(pipeline, timeline, known, sampling=SAMPLING, seed=3, pinned=keyframes)
    latents = dict(film.latents())
    assert all(torch.equal(latents[frame], keyframes[frame]) for frame in timeline.pinned)
    assert len({latent.numpy().tobytes() for latent in latents.values()}) == 11
    made = make_row("local", known, segment_length=4, size=16, pipeline=pipeline)
    assert made.seconds == 0  # nothing is made before it is looked at
    assert len(list(made)) == 11
