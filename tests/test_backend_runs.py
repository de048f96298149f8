"""What each pretrained pipeline is told for one run, with tiny random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_backends import SIZE, save_tiny

from nuwaxl.backends.runs import PixelRun, join_prompts, to_pixels
from nuwaxl.backends.stills import paint_stills, show_pictures
from nuwaxl.backends.video import run_ltx, run_wan_flf, run_wan_vace
from nuwaxl.denoising.sampling import RoleSettings
from nuwaxl.tree.coarse_to_fine import SegmentJob
from nuwaxl.tree.timeline import Segment


def picture(seed: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return PIL.Image.fromarray(pixels)


def a_run(
    num_frames: int,
    given: tuple[int, ...] = (),
    *,
    prompts: tuple[str, ...] = (),
    seed: int = 0,
    level: int = 1,
    **changes: Any,
) -> PixelRun:
    """A run over neighbouring frames from frame 8 on."""
    frames = tuple(range(8, 8 + num_frames))
    is_given = tuple(at in given for at in range(num_frames))
    segment = Segment(level, 0, frames, is_given)
    prompts = prompts or ("a dog",) * num_frames
    times = tuple(frame / 16 for frame in frames)
    job = SegmentJob("key", segment, times, prompts, seed, (None,) * num_frames)
    settings: dict[str, Any] = {
        "settings": RoleSettings(1, 1.0),
        "negative_prompt": "",
        "guidance_rescale": 0.0,
        "fps": 16.0,
        "height": SIZE,
        "width": SIZE,
    }
    pictures = tuple(picture(at) if at in given else None for at in range(num_frames))
    return PixelRun(job, pictures, **(settings | changes))


def loaded(name: str, folder: Path, **changes: Any) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(save_tiny(name, folder, **changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: loaded(name, root / name) for name in ("wan-vace", "wan-flf", "ltx", "stills")}


# ---- Prompts and noise ----------------------------------------------------------------------


def test_one_scene_is_its_prompt_and_several_are_told_in_order() -> None:
    assert join_prompts(["a dog."] * 3) == "a dog."
    assert (
        join_prompts(["a dog.", "a cat", "a cat", "a dog."]) == "a dog. Then: a cat. Then: a dog."
    )


def test_a_run_is_told_what_its_new_frames_show() -> None:
    prompts = ("a dog", "a cat", "a cat", "a cat", "a fox")
    assert a_run(5, (0, 4), prompts=prompts).prompt() == "a cat"
    assert a_run(5, prompts=prompts).prompt() == "a dog. Then: a cat. Then: a fox."
    assert a_run(5, (0, 2, 4), prompts=prompts).prompt(range(2, 5)) == "a cat"


def test_noise_follows_seed_level_and_frames_alone() -> None:
    def draw(run: PixelRun) -> float:
        return torch.rand((), generator=run.generator()).item()

    first = draw(a_run(5))
    assert first == draw(a_run(5, (0, 4), prompts=("a cat",) * 5))
    others = [draw(each) for each in (a_run(5, seed=1), a_run(5, level=2), a_run(9))]
    assert len({first, *others}) == 4


def test_pixels_that_are_no_numbers_are_black() -> None:
    frames = np.full((1, 2, 2, 3), np.nan)
    assert to_pixels(frames).max() == 0


# ---- Wan and LTX ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "name", "num_frames", "line"),
    [
        (run_wan_vace, "wan-vace", 8, "wan-vace must have 4 k . 1 frames, got 8; the next are 9"),
        (run_wan_vace, "wan-vace", 1, "got 1; the next are 5"),
        (run_ltx, "ltx", 13, "ltx must have 8 k . 1 frames, got 13; the next are 17"),
    ],
)
def test_a_number_of_frames_that_would_be_rounded_is_refused(
    pipelines: dict[str, Any], run: Any, name: str, num_frames: int, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        run(pipelines[name], a_run(num_frames))


def told(run: Any, pipeline: Any, pixel_run: PixelRun) -> list[torch.Tensor]:
    """What the network itself is given at the first step."""
    seen: list[dict[str, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, arguments: seen.append(arguments), with_kwargs=True
    )
    try:
        assert run(pipeline, pixel_run).shape == (pixel_run.num_frames, 3, SIZE, SIZE)
    finally:
        hook.remove()
    return [value for value in seen[0].values() if isinstance(value, torch.Tensor)]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("given", [(0, 3, 4, 8)])
@pytest.mark.parametrize(("run", "name"), [(run_wan_vace, "wan-vace"), (run_ltx, "ltx")])
def test_the_network_is_told_of_each_given_frame(
    pipelines: dict[str, Any], run: Any, name: str, given: tuple[int, ...]
) -> None:
    everything = told(run, pipelines[name], a_run(9, given))
    for at in given:
        fewer = tuple(each for each in given if each != at)
        assert not same(everything, told(run, pipelines[name], a_run(9, fewer)))


def test_ltx_knows_the_last_frame_by_its_own_number(pipelines: dict[str, Any]) -> None:
    """Conditions come before the clip's own tokens: 16 cells at time 8, not before 0."""
    (coords,) = [
        each
        for each in told(run_ltx, pipelines["ltx"], a_run(9, (0, 8)))
        if each.ndim == 3 and each.shape[1] == 3
    ]
    assert (coords[0, 0, :16] * 16 == 8).all()


def test_ltx_is_not_told_of_given_frames_far_from_new_ones(pipelines: dict[str, Any]) -> None:
    run = a_run(9, (0, 1, 2, 8))
    other = replace(run, given=(picture(50), picture(51), *run.given[2:]))
    assert same(*(told(run_ltx, pipelines["ltx"], each) for each in (run, other)))


def test_the_decoder_of_ltx_that_takes_a_noise_level_gets_one(tmp_path: Path) -> None:
    pipeline = loaded("ltx", tmp_path, timestep_conditioning=True)
    assert run_ltx(pipeline, a_run(9, (0, 8))).shape == (9, 3, SIZE, SIZE)


def test_wan_flf_runs_each_stretch_between_given_frames_by_itself(
    pipelines: dict[str, Any],
) -> None:
    run = a_run(9, (0, 4, 8))
    frames = run_wan_flf(pipelines["wan-flf"], run)
    for first in (0, 4):
        made = pipelines["wan-flf"](
            image=run.given[first],
            last_image=run.given[first + 4],
            prompt="a dog",
            negative_prompt="",
            height=SIZE,
            width=SIZE,
            num_frames=5,
            num_inference_steps=1,
            guidance_scale=1.0,
            generator=run.generator(run.job.segment.frames[first : first + 5]),
            output_type="np",
        ).frames[0]
        assert torch.equal(frames[first + 1 : first + 4], to_pixels(made)[1:4])


def test_a_stretch_of_another_length_takes_frames_of_the_next_that_fits(
    pipelines: dict[str, Any],
) -> None:
    """Three frames lie at 0, 2 and 4 of five: the middle one is the middle."""
    run = a_run(9, (0, 1, 2, 3, 4, 5, 6, 8))
    made = pipelines["wan-flf"](
        image=run.given[6],
        last_image=run.given[8],
        prompt="a dog",
        negative_prompt="",
        height=SIZE,
        width=SIZE,
        num_frames=5,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=run.generator(run.job.segment.frames[6:]),
        output_type="np",
    ).frames[0]
    assert torch.equal(run_wan_flf(pipelines["wan-flf"], run)[7], to_pixels(made)[2])


def test_wan_flf_without_an_end_is_refused(pipelines: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="this run lacks one"):
        run_wan_flf(pipelines["wan-flf"], a_run(9, (0,)))


# ---- Stills ---------------------------------------------------------------------------------


def test_a_still_follows_its_own_prompt_and_frame_only(pipelines: dict[str, Any]) -> None:
    dogs = paint_stills(pipelines["stills"], a_run(3, level=0))
    mixed = paint_stills(
        pipelines["stills"], a_run(3, (2,), prompts=("a dog", "a cat", "a dog"), level=0)
    )
    assert torch.equal(dogs[0], mixed[0])
    assert not torch.equal(dogs[1], mixed[1])
    assert not torch.equal(dogs[0], dogs[1])


def test_own_pictures_must_be_as_many_as_keyframes(tmp_path: Path) -> None:
    for at in range(2):
        picture(at).save(tmp_path / f"{at}.png")
    shown = show_pictures(str(tmp_path), a_run(2, level=0))
    assert torch.equal(shown[1], to_pixels(np.asarray(picture(1))[None] / 255)[0])
    with pytest.raises(ValueError, match="one for each of 3 keyframes, got 2"):
        show_pictures(str(tmp_path), a_run(3, level=0))
