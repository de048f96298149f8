"""Small videos of every kind, made with PyAV, for the tests of what reads them."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from nuwaxl.preparation.scan import ScanTask
from nuwaxl.preparation.settings import PrepareConfig

MILLISECOND = Fraction(1, 1000)


def moving(
    num_frames: int, *, height: int = 48, width: int = 64, colour: int = 0, step: int = 2
) -> list[np.ndarray]:
    """A bright square that moves over a gradient of a colour of its own."""
    rows, columns = np.mgrid[0:height, 0:width]
    hue = np.random.default_rng(colour).uniform(0.2, 1, (3, 2))
    ground = 100 * (hue[:, :1, None] * rows / height + hue[:, 1:, None] * columns / width)
    pictures = []
    for index in range(num_frames):
        picture = ground.transpose(1, 2, 0).astype(np.uint8)
        left, top = step * index % (width - 12), (5 * colour) % (height - 12)
        picture[top : top + 12, left : left + 12] = 255
        pictures.append(picture)
    return pictures


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    times: Sequence[int] | None = None,
    fps: int = 8,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int = 0,
) -> Path:
    """Write a video; `times` are milliseconds of each picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = MILLISECOND
        stream.codec_context.gop_size = 4
        if rotation:
            stream.set_display_rotation(rotation)
        times = times or [round(1000 * index / fps) for index in range(len(pictures))]
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = time, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def crash_on_bad(task: ScanTask, config: PrepareConfig) -> None:
    """Stands for a decoder that crashes; here, so that worker processes can import it."""
    task.target.with_suffix(".part").touch()
    if task.video == "bad":
        os._exit(139)
    task.target.with_suffix(".part").unlink()
