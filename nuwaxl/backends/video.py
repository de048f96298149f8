"""Runs of Wan's and LTX's pipelines: given frames in, all frames out.

Knows each pipeline's way to be told of given frames; not how a film is cut into runs.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import PIL.Image
import torch
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.backends.catalogue import BACKENDS
from nuwaxl.backends.runs import PixelRun, to_pixels
from nuwaxl.tree.branching import RunLengths

_GREY = (128, 128, 128)
"""What Wan VACE sees where a frame is to be made."""
_DECODE_TIMESTEP, _DECODE_NOISE_SCALE = 0.05, 0.025
"""As Lightricks runs the decoders of LTX that take a noise level."""


def run_wan_vace(pipeline: Any, run: PixelRun) -> UInt8[Tensor, "frames 3 height width"]:
    """All frames by Wan VACE: any of them may be given; none is plain text to video.

    Args:
        pipeline: a `WanVACEPipeline`.
        run: with 4 k + 1 frames.
    """
    _check_length("wan-vace", run.num_frames)
    conditions: dict[str, Any] = {}
    if any(image is not None for image in run.given):
        size = (run.width, run.height)
        grey = PIL.Image.new("RGB", size, _GREY)
        known, wanted = PIL.Image.new("L", size, 0), PIL.Image.new("L", size, 255)
        conditions["video"] = [image or grey for image in run.given]
        conditions["mask"] = [wanted if image is None else known for image in run.given]
    return _frames(pipeline, run, run.num_frames, **_common(run), **conditions)


def run_wan_flf(pipeline: Any, run: PixelRun) -> UInt8[Tensor, "frames 3 height width"]:
    """All frames by Wan's image-to-video, which knows a first and a last frame, one pair a call.

    Where an edit gives more frames, each stretch between two of them is a call of its own, of the
    next larger number of frames that the model can make, out of which as many are taken, evenly.

    Args:
        pipeline: a `WanImageToVideoPipeline`.
        run: with its two ends given.

    Raises:
        ValueError: an end is not given.
    """
    if run.given[0] is None or run.given[-1] is None:
        raise ValueError(
            "`model` wan-flf makes frames between a first and a last one, and this run lacks one."
        )
    frames = torch.zeros(run.num_frames, 3, run.height, run.width, dtype=torch.uint8)
    for first, last in _stretches(run):
        length = _lengths("wan-flf").fit(last - first + 1)
        positions = range(first, last + 1)
        common = _common(run) | {
            "prompt": run.prompt(positions),
            "generator": run.generator(run.job.segment.frames[first : last + 1]),
        }
        made = _frames(
            pipeline,
            run,
            length,
            **common,
            image=run.given[first],
            last_image=run.given[last],
        )
        for position in positions[1:-1]:
            # The nearest of the frames made; all of them, when the stretch fits the model.
            frames[position] = made[round((position - first) * (length - 1) / (last - first))]
    return frames


def run_ltx(pipeline: Any, run: PixelRun) -> UInt8[Tensor, "frames 3 height width"]:
    """All frames by LTX, told of the given frames that have a new neighbour.

    Each is a condition with its own frame index, the last one's being n - 1: -1 would be taken for
    a place before the first frame.

    Args:
        pipeline: an `LTXConditionPipeline`.
        run: with 8 k + 1 frames.
    """
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    _check_length("ltx", run.num_frames)
    conditions = [
        LTXVideoCondition(image=image, frame_index=index)
        for index, image in enumerate(run.given)
        if image is not None and None in run.given[max(0, index - 1) : index + 2]
    ]
    options: dict[str, Any] = {"guidance_rescale": run.guidance_rescale, "frame_rate": run.fps}
    if pipeline.vae.config.timestep_conditioning:
        options |= {
            "decode_timestep": _DECODE_TIMESTEP,
            "decode_noise_scale": _DECODE_NOISE_SCALE,
        }
    if conditions:
        options["conditions"] = conditions
    return _frames(pipeline, run, run.num_frames, **_common(run), **options)


RUNS = {"wan-vace": run_wan_vace, "wan-flf": run_wan_flf, "ltx": run_ltx}
"""By the backend's name."""


def _common(run: PixelRun) -> dict[str, Any]:
    """What all pipelines are told, and are told alike."""
    return {
        "prompt": run.prompt(),
        "negative_prompt": run.negative_prompt,
        "generator": run.generator(),
        "num_inference_steps": run.settings.num_inference_steps,
        "guidance_scale": run.settings.guidance_scale,
    }


def _frames(
    pipeline: Any, run: PixelRun, num_frames: int, **told: Any
) -> UInt8[Tensor, "frames 3 height width"]:
    """Call the pipeline for one clip.

    Raises:
        ValueError: it made another number of frames.
    """
    made = pipeline(
        height=run.height, width=run.width, num_frames=num_frames, output_type="np", **told
    ).frames[0]
    if len(made) != num_frames:
        raise ValueError(
            f"{type(pipeline).__name__} made {len(made)} frames instead of {num_frames}: its VAE "
            "joins other numbers of frames than this backend expects."
        )
    return to_pixels(made)


def _stretches(run: PixelRun) -> Iterator[tuple[int, int]]:
    """First and last position of each row of new frames with the given ones around it."""
    given = [at for at, image in enumerate(run.given) if image is not None]
    for first, last in pairwise(given):
        if last - first > 1:
            yield first, last


def _lengths(name: str) -> RunLengths:
    return RunLengths(BACKENDS[name].most, BACKENDS[name].step)


def _check_length(name: str, num_frames: int) -> None:
    """The pipelines round a number of frames that they cannot make, with no more than a warning."""
    step = BACKENDS[name].step
    if (num_frames - 1) % step or num_frames <= step:
        raise ValueError(
            f"A run of {name} must have {step} k + 1 frames, got {num_frames}; the next are "
            f"{_lengths(name).fit(num_frames)}."
        )
