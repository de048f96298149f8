"""Larger pictures, each by itself: by Lanczos, or by any upscaler of diffusers.

Knows pictures and prompts, not films.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_FACTOR = 16


@dataclass(frozen=True)
class LanczosUpscale:
    """Every picture larger by a factor, sharp and without anything made up."""

    factor: float

    def __post_init__(self) -> None:
        if not 1 < self.factor <= MAX_FACTOR:  # also false for nan
            raise ValueError(
                f"`factor` must be above 1 and at most {MAX_FACTOR}, got {self.factor:g}."
            )

    @property
    def context(self) -> int:
        """None; see `FrameStep`."""
        return 0

    def apply(self, frames: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
        """See `FrameStep`."""
        for frame in frames:
            height, width, _ = frame.shape
            yield _resized(frame, round(height * self.factor), round(width * self.factor))


class ModelUpscale:
    """Every picture through an upscaler of diffusers, with the film's prompt at that frame.

    The same noise for every frame: details that the upscaler makes up stay where they are as long
    as the picture does, and a frame depends on itself alone.

    Args:
        upscaler: a pipeline whose call takes `image` and gives pictures, such as
            `StableDiffusionUpscalePipeline` or `StableDiffusionLatentUpscalePipeline`.
        prompt_at: frame number -> prompt; not asked where the upscaler takes none.
        factor: of the result; None: the upscaler's own, else Lanczos brings it to size.
        num_inference_steps: of the upscaler; None: its own.
        guidance_scale: of the upscaler; None: its own.
        seed: of the noise.

    Raises:
        ValueError: it is no upscaler.
    """

    context = 0

    def __init__(
        self,
        upscaler: Any,
        prompt_at: Callable[[int], str],
        *,
        factor: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
    ):
        self._known = set(inspect.signature(upscaler.__call__).parameters)
        if "image" not in self._known:
            raise ValueError(
                f"The upscaler must take pictures, and a {type(upscaler).__name__} does not: name "
                "one such as StableDiffusionUpscalePipeline."
            )
        if factor is not None:
            LanczosUpscale(factor)
        self.upscaler, self.prompt_at, self.factor, self.seed = upscaler, prompt_at, factor, seed
        settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        self._settings = {k: v for k, v in settings.items() if v is not None and k in self._known}

    def apply(self, frames: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
        """See `FrameStep`."""
        import torch

        for number, frame in enumerate(frames, first):
            arguments = dict(self._settings)
            if "prompt" in self._known:
                arguments["prompt"] = self.prompt_at(number)
            if "generator" in self._known:
                arguments["generator"] = torch.Generator("cpu").manual_seed(self.seed)
            picture = self.upscaler(
                image=Image.fromarray(frame), output_type="pil", **arguments
            ).images[0]
            upscaled = np.asarray(picture.convert("RGB"))
            if self.factor is not None:
                height, width = (round(size * self.factor) for size in frame.shape[:2])
                upscaled = _resized(upscaled, height, width)
            yield upscaled


def check_upscaler(name: str) -> None:
    """Refuse a folder that holds no pipeline, before anything is loaded.

    Args:
        name: a folder, or 'owner/name' on the hub.

    Raises:
        ValueError: it is neither.
    """
    is_address = len(name.split("/")) == 2 and not name.startswith((".", "/"))
    if (Path(name) / "model_index.json").is_file() or (is_address and not Path(name).exists()):
        return
    raise ValueError(
        "the upscaler must be a folder with a model_index.json, saved by diffusers, or a name on"
        f" the hub such as stabilityai/stable-diffusion-x4-upscaler, got {name!r}."
    )


def load_upscaler(name: str, device: Any, dtype: Any = None) -> Any:
    """An upscaler of diffusers on its device.

    Args:
        name: a folder, or 'owner/name' on the hub.
        device: where it runs.
        dtype: of its weights; None: fp32.

    Raises:
        ValueError: it cannot be loaded, in one line.
    """
    import torch
    from diffusers import DiffusionPipeline

    check_upscaler(name)
    try:
        upscaler: Any = DiffusionPipeline.from_pretrained(name, dtype=dtype or torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the upscaler {name!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    upscaler.set_progress_bar_config(disable=True)
    return upscaler.to(device)


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)
