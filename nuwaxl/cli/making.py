"""What commands that make a film share: load the model, show progress, write files whole."""

import os
import sys
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwaxl.backends.catalogue import BackendChoice
from nuwaxl.cli.errors import CommandError, user_errors
from nuwaxl.cli.request import backends_of
from nuwaxl.config import GenerateConfig

if TYPE_CHECKING:
    import numpy as np

    from nuwaxl.pipelines.backend import BackendPipeline
    from nuwaxl.pipelines.long_video import LongVideoPipeline


@dataclass(frozen=True)
class Show:
    """What the user wants to see while the film is made."""

    quiet: bool

    @property
    def progress(self) -> bool:
        """Whether to draw a progress bar: only where somebody looks."""
        return not self.quiet and sys.stderr.isatty()


def load_pipeline(config: GenerateConfig) -> "LongVideoPipeline | BackendPipeline":
    """The model on its device; a pretrained one loads its weights with its first run.

    Args:
        config: model, device and dtype count.

    Raises:
        CommandError: the device cannot be used here, or a pretrained model cannot do its part.
    """
    import diffusers
    import torch
    import transformers

    from nuwaxl.pipelines.long_video import LongVideoPipeline
    from nuwaxl.tensors.devices import best_device

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    backends = backends_of(config)
    if backends is not None:
        return _load_backends(config, backends)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    pipeline = LongVideoPipeline.from_pretrained(config.model, dtype=dtype)
    with _device_errors(config.device):
        pipeline.to(best_device() if config.device == "auto" else config.device)
    for lora in config.lora:
        pipeline.load_lora_weights(lora)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_backends(config: GenerateConfig, backends: BackendChoice) -> "BackendPipeline":
    import diffusers
    import torch
    import transformers

    from nuwaxl.backends.loading import LoadSettings
    from nuwaxl.pipelines.backend import BackendPipeline

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    with user_errors({"offload": "--offload", "quantize": "--quantize"}):
        with _device_errors(config.device):
            settings = LoadSettings(config.device, config.dtype, config.offload)
            torch.empty(0, device=settings.torch_device)
        return BackendPipeline(backends, settings)


@contextmanager
def _device_errors(device: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"`--device` {device} cannot be used here: {reason}") from error


def with_progress(
    frames: Iterable["np.ndarray"], num_frames: int, show: Show
) -> Generator["np.ndarray", None, None]:
    """Pass frames on, with a bar on stderr: frames done and time left.

    Args:
        frames: as they are made.
        num_frames: how many there will be.
        show: whether there is a bar.
    """
    if not show.progress:
        yield from frames
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Frames come in bursts, a segment at a time: average over half a minute at least.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60.0) as progress:
        task = progress.add_task("frames", total=num_frames)
        for frame in frames:
            yield frame
            progress.advance(task)


def write_film(
    path: str | os.PathLike[str],
    fps: float,
    frames: Generator["np.ndarray", None, None],
    *,
    overwrite: bool,
    keep: Collection[int] = (),
) -> "list[tuple[int, np.ndarray]]":
    """Write the film, whole or not at all.

    Args:
        path: of the film.
        fps: frames per second.
        frames: in display order; closed when they break off, so that what runs is kept.
        overwrite: replace what is there.
        keep: numbers of frames to return.

    Returns:
        The frames of these numbers.
    """
    from nuwaxl.video import VideoWriter

    kept = []
    with (
        closing(frames),
        VideoWriter(os.fspath(path), fps, overwrite=overwrite) as writer,
    ):
        for index, frame in enumerate(frames):
            writer.write(frame)
            if index in keep:
                kept.append((index, frame))
    return kept


def write_picture(picture: Any, path: Path) -> None:
    """Save a picture, whole or not at all.

    Args:
        picture: a PIL image.
        path: its ending says the format.
    """
    hidden = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        picture.save(hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
