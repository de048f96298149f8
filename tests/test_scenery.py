"""Sketches of frames from prompt and camera, and the films that are made with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PROMPT_DIM, SIZE, tiny_pipeline, tiny_transformer, tiny_unet
from torch import nn

from nuwaxl import LongVideoPipeline
from nuwaxl.denoising.camera import camera_positions
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.models.backbones import Backbone, load_backbone
from nuwaxl.models.scenery import SceneryModel, turns
from nuwaxl.parts.costs import model_costs
from nuwaxl.parts.sizes import read_parts
from nuwaxl.training.assemble import AssembleConfig, assemble
from nuwaxl.training.growth import with_sketches
from nuwaxl.tree.coarse_to_fine import SegmentJob
from nuwaxl.tree.jobs import FrameSource
from nuwaxl.tree.timeline import Segment

SPEED = 0.03


def tiny_scenery(**changes: Any) -> SceneryModel:
    torch.manual_seed(5)
    sizes: dict = {"in_channels": 4, "height": 4, "width": 6, "prompt_dim": 2 * PROMPT_DIM}
    return SceneryModel(**sizes | {"channels": 8, "hidden_dim": 8, "reader_channels": 8} | changes)


def job(frames: list[int], given: list[int], *, seed: int = 1, cut: int = 99) -> SegmentJob:
    """Frames two seconds apart; another scene from frame `cut` on."""
    return SegmentJob(
        key="",
        segment=Segment(1, 0, tuple(frames), tuple(frame in given for frame in frames)),
        times=tuple(2.0 * frame for frame in frames),
        prompts=tuple("a dog" if frame < cut else "a cat" for frame in frames),
        seed=seed,
        sources=tuple(FrameSource("key", 0) if frame in given else None for frame in frames),
    )


def apart(a: float, b: float) -> float:
    return abs(a - b - round(a - b))


def test_all_segments_of_a_film_agree_where_the_camera_is() -> None:
    """By seed, prompt and time: also where what is read from given frames is a little off."""
    whole = dict(enumerate(camera_positions(job([*range(9)], []), [SPEED] * 9, [0.0] * 9)))
    part = [4, 5, 6]
    seen = [whole[4] + 0.02, 0.7, whole[6] - 0.02]
    inner = camera_positions(job(part, [4, 6]), [SPEED] * 3, seen)
    for frame, position in zip(part, inner, strict=True):
        assert apart(position, whole[frame]) < 1e-9
    assert apart(whole[1] - whole[0], 2 * SPEED) < 1e-9
    other_seed = camera_positions(job([0], [], seed=2), [SPEED], [0.0])
    other_scene = camera_positions(job([0], [], cut=0), [SPEED], [0.0])
    assert apart(other_seed[0], whole[0]) > 1e-3
    assert apart(other_scene[0], whole[0]) > 1e-3


def test_the_camera_travels_on_from_a_picture_that_is_elsewhere() -> None:
    planned = camera_positions(job([0, 1, 2], []), [SPEED] * 3, [0.0] * 3)
    seen = planned[0] + 0.3
    positions = camera_positions(job([0, 1, 2], [0]), [SPEED] * 3, [seen, 0.0, 0.0])
    for frame, position in enumerate(positions):
        assert apart(position, seen + 2 * SPEED * frame) < 1e-9


def test_the_camera_arrives_at_the_next_given_frame_the_short_way_round() -> None:
    planned = camera_positions(job([0, 1, 2], []), [SPEED] * 3, [0.0] * 3)
    positions = camera_positions(
        job([0, 1, 2], [0, 2]), [SPEED] * 3, [planned[0], 0, planned[2] - 0.2]
    )
    assert apart(positions[0], planned[0]) < 1e-9
    assert apart(positions[1], planned[1] - 0.1) < 1e-9
    assert apart(positions[2], planned[2] - 0.2) < 1e-9


def test_a_frame_of_another_scene_does_not_tell_where_the_camera_is() -> None:
    frames = [0, 1, 2, 3]
    plan = camera_positions(job(frames, [], cut=2), [SPEED] * 4, [0.0] * 4)
    seen = [plan[0] + 0.4, 0.0, 0.0, 0.0]
    positions = camera_positions(job(frames, [0], cut=2), [SPEED] * 4, seen)
    assert apart(positions[1], plan[1] + 0.4) < 1e-9
    assert positions[2:] == plan[2:]


@torch.no_grad()
def test_a_sketch_depends_on_prompt_and_place_and_the_panorama_closes_on_itself() -> None:
    scenery, prompts = tiny_scenery(), torch.randn(2, 2 * PROMPT_DIM)
    here, there = torch.tensor([0.2, 0.2]), torch.tensor([0.7, torch.nan])
    sketch = scenery.sketch(prompts, here)
    assert sketch.shape == (2, 4, 4, 6)
    torch.testing.assert_close(scenery.sketch(prompts, here + 1), sketch, rtol=0, atol=1e-4)
    elsewhere = scenery.sketch(prompts, there)
    assert (elsewhere[0] - sketch[0]).abs().max() > 1e-3
    assert (sketch[0] - sketch[1]).abs().max() > 1e-3
    assert not elsewhere[1].any()  # where the camera is not known there is none
    assert scenery.sketch(prompts, here, (8, 8)).shape == (2, 4, 8, 8)
    assert scenery.positions(torch.randn(2, 4, 8, 8), prompts).shape == (2,)


def test_of_two_likely_speeds_one_is_taken() -> None:
    scenery = tiny_scenery(max_speed=0.1, num_speeds=21)
    logits = torch.full((2, 21), -20.0)
    logits[0, [3, 17]] = torch.tensor([1.0, 1.1])
    logits[1, [10, 11]] = 1.0
    torch.testing.assert_close(scenery.likeliest(logits), torch.tensor([0.07, 0.005]))
    half = tiny_scenery(max_speed=0.1, num_speeds=21).bfloat16()
    torch.testing.assert_close(half.likeliest(logits), torch.tensor([0.07, 0.005]))
    angles = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(turns(3 * angles), torch.tensor([0.0, 0.25, 0.75]))


def test_every_weight_of_a_scenery_model_learns() -> None:
    scenery = tiny_scenery()
    results = scenery(torch.randn(3, 4, 4, 6), torch.randn(3, 2 * PROMPT_DIM), torch.rand(3))
    torch.stack([result.square().sum() for result in results]).sum().backward()
    silent = [n for n, w in scenery.named_parameters() if w.grad is None or not w.grad.any()]
    assert silent == []


@pytest.mark.parametrize("tiny", [tiny_unet, tiny_transformer])
@torch.no_grad()
def test_a_network_ignores_sketches_at_first_and_then_sees_them(
    tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    network = tiny().eval()
    grown = with_sketches(network).eval()
    sample, prompts = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 2, PROMPT_DIM)
    told: dict = {"frame_times": torch.arange(3.0)[None], "return_dict": False}
    sketches = torch.randn_like(sample)
    before = network(sample, 500, prompts, **told)[0]
    for shown in (None, sketches):
        assert torch.equal(grown(sample, 500, prompts, sketches=shown, **told)[0], before)
    # ... and one that is not `sketched` ignores them for ever.
    assert torch.equal(network(sample, 500, prompts, sketches=sketches, **told)[0], before)
    for name, weight in grown.named_parameters():
        if name.startswith("sketch_"):
            nn.init.normal_(weight, std=0.1)
    seen = grown(sample, 500, prompts, sketches=sketches, **told)[0]
    assert (seen - before).abs().max() > 1e-3
    cache: dict = {}
    for _ in range(2):
        cached = grown(sample, 500, prompts, sketches=sketches, cache=cache, **told)[0]
        torch.testing.assert_close(cached, seen)
    grown.save_pretrained(tmp_path)
    again = load_backbone(tmp_path).eval()
    assert torch.equal(again(sample, 500, prompts, sketches=sketches, **told)[0], seen)


def sketched_pipeline() -> LongVideoPipeline:
    pipeline = tiny_pipeline()
    cells = SIZE // pipeline.vae.spatial_scale
    tokens = len(pipeline.prompt_adapter.queries)
    pipeline.register_modules(
        global_unet=with_sketches(pipeline.global_unet),
        local_unet=with_sketches(pipeline.local_unet),
        scenery=tiny_scenery(height=cells, width=cells, prompt_dim=tokens * PROMPT_DIM).eval(),
    )
    for network in (pipeline.global_unet, pipeline.local_unet):
        for name, weight in network.named_parameters():
            if name.startswith("sketch_"):
                nn.init.normal_(weight, std=0.1)
    return pipeline


def film(pipeline: LongVideoPipeline, **changes: Any) -> torch.Tensor:
    arguments: dict = {"num_frames": 10, "seed": 3, "num_inference_steps": 2, "output_type": "pt"}
    return pipeline("a dog", **arguments | changes).frames[0]


def test_a_film_is_made_with_sketches_and_kept_with_them(tmp_path: Path) -> None:
    pipeline = sketched_pipeline()
    made, fingerprint = film(pipeline), pipeline.fingerprint
    pipeline.save_pretrained(tmp_path)
    again = LongVideoPipeline.from_pretrained(tmp_path)
    again.compute_dtype = torch.float32
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(film(again), made)
    assert again.fingerprint == fingerprint
    pipeline.register_modules(scenery=None)
    assert pipeline.fingerprint != fingerprint
    assert (film(pipeline) - made).abs().max() > 1e-3
    assert LongVideoPipeline.from_pretrained(tmp_path, scenery=None).scenery is None


def test_with_sketches_too_a_part_of_a_film_is_that_part_of_the_whole() -> None:
    pipeline = sketched_pipeline()
    whole = film(pipeline)
    sampling = SamplingConfig(num_inference_steps=2, scheduler=pipeline.scheduler_name())
    with pipeline.film("a dog", num_frames=10, seed=3, sampling=sampling) as made:
        part = torch.stack([pixels for _, pixels in made.pixels(6, 8)])
    torch.testing.assert_close(part, whole[6:8], rtol=0, atol=1e-4)
    torch.testing.assert_close(film(pipeline, batch_size=1), whole, rtol=0, atol=1e-4)


def test_assembling_asks_for_the_scenery_that_a_network_learned_from(tmp_path: Path) -> None:
    sketched_pipeline().save_pretrained(tmp_path / "parts")
    names = ("vae", "prompt_adapter", "global_unet", "local_unet", "text_encoder", "tokenizer")
    folders: dict[str, Any] = {name: str(tmp_path / "parts" / name) for name in names}
    sizes: dict[str, Any] = {"dtype": "float32", "height": SIZE, "width": SIZE}
    with pytest.raises(ValueError, match="`scenery` must be the folder of the model whose"):
        AssembleConfig(**sizes, **folders)
    folders["scenery"] = str(tmp_path / "parts/scenery")
    whole = assemble(AssembleConfig(output=str(tmp_path / "whole"), **sizes, **folders))
    assert whole.fingerprint == LongVideoPipeline.from_pretrained(tmp_path / "parts").fingerprint
    costs = model_costs(read_parts(tmp_path / "whole"))
    assert {part.name: part.kind for part in costs.parts}["scenery"] == "SceneryModel"
