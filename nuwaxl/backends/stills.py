"""Keyframes as single pictures: painted each from its own prompt, or the user's own.

Knows one picture at a time; keyframes have nothing in common but their prompts.
"""

import inspect
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.backends.catalogue import picture_files
from nuwaxl.backends.runs import PixelRun, to_pixels
from nuwaxl.pictures.reading import read_picture


def paint_stills(pipeline: Any, run: PixelRun) -> UInt8[Tensor, "frames 3 height width"]:
    """One picture for each new keyframe, from the prompt in force there.

    Args:
        pipeline: any that makes pictures from text.
        run: of level 0.

    Raises:
        ValueError: a negative prompt, for a pipeline that reads none.
    """
    known = inspect.signature(type(pipeline).__call__).parameters
    told: dict[str, Any] = {"num_inference_steps": run.settings.num_inference_steps}
    if "guidance_scale" in known:
        told["guidance_scale"] = run.settings.guidance_scale
    if "negative_prompt" in known:
        told["negative_prompt"] = run.negative_prompt or None
    elif run.negative_prompt:
        raise ValueError(
            f"`negative_prompt` is not read by {type(pipeline).__name__}: leave it out."
        )
    frames = torch.zeros(run.num_frames, 3, run.height, run.width, dtype=torch.uint8)
    for position, image in enumerate(run.given):
        if image is None:
            made = pipeline(
                prompt=run.job.prompts[position],
                height=run.height,
                width=run.width,
                generator=run.generator([run.job.segment.frames[position]]),
                output_type="np",
                **told,
            ).images
            frames[position] = to_pixels(np.asarray(made))[0]
    return frames


def show_pictures(folder: str, run: PixelRun) -> UInt8[Tensor, "frames 3 height width"]:
    """The user's pictures, the first at the first keyframe and the last at the last.

    Args:
        folder: that holds one for each keyframe.
        run: of level 0.

    Raises:
        ValueError: there are fewer pictures than keyframes.
    """
    files = picture_files(folder)
    if len(files) != run.num_frames:
        raise ValueError(
            f"`global_model` pictures must be one for each of {run.num_frames} keyframes, got "
            f"{len(files)} in {folder!r}; a film made longer needs another folder."
        )
    pictures = [read_picture(path, height=run.height, width=run.width) for path in files]
    return to_pixels(np.stack(pictures).astype(np.float64) / 255)
