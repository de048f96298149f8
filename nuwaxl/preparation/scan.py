"""One video to pictures at an even rate, with times, shots and what tells like from like.

Knows one file, not the rest of the folder. Runs in worker processes, so it loads no network.
"""

import io
import json
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scenedetect import HashDetector

from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.preparation.shots import ShotDetector
from nuwaxl.video.timed import TimedReader

CAPTION_SIZE = 384
"""Pixels of what a captioner is shown, where the video has as many; BLIP's own size."""
TEMPORARY = ".part"
"""Ending of a file that is not whole yet."""
_CELLS = 16
_EARLY = Fraction(1, 4)
"""A picture may be this part of the sampling period early: frame times are rounded in files."""


@dataclass(frozen=True)
class Scan:
    """What was read of a video. The pictures are in a file beside, one after another."""

    video: str
    key: str
    duration: float
    times: list[float]
    """Seconds of each picture from the video's first frame."""
    offsets: list[int]
    """Where each picture begins in the file."""
    sizes: list[int]
    hashes: list[str]
    """Perceptual hash of each picture, 16 hexadecimal digits."""
    shot_starts: list[float]
    """Seconds, the first 0."""
    motions: list[float]
    """For each shot the largest change of a cell from its first picture on, of 255."""
    side: int
    """Height and width of the pictures in the file."""
    notes: list[str] = field(default_factory=list)
    source: Mapping[str, Any] = field(default_factory=dict)

    def frames_of(self, shot: int) -> range:
        """Numbers of the pictures in a shot.

        Args:
            shot: its number.
        """
        ends = [*self.shot_starts[1:], float("inf")]
        first, stop = np.searchsorted(self.times, [self.shot_starts[shot], ends[shot]])
        return range(int(first), int(stop))


@dataclass(frozen=True)
class ScanTask:
    """A video to be scanned."""

    video: str
    """Path in the folder."""
    path: Path
    key: str
    target: Path
    """Where the pictures go, `target.json` beside them; both appear whole or not at all."""
    for_captioner: bool = False
    """Keep larger pictures, of which captions are made."""


def scan_video(task: ScanTask, config: PrepareConfig) -> None:
    """Decode a video once and write its pictures and its `Scan`.

    Args:
        task: which video, and where to.
        config: size, rate, detector.

    Raises:
        ValueError: it is no film.
        OSError: it cannot be read, or the result cannot be written.
    """
    status = task.path.stat()
    pictures = task.target.with_suffix(TEMPORARY)
    try:
        with TimedReader(task.path) as reader, pictures.open("wb") as file:
            shown = min(reader.width, reader.height)
            side = max(config.size, min(CAPTION_SIZE, shown)) if task.for_captioner else config.size
            sampled = _Sampled(config, side)
            shots = ShotDetector(config, reader.fps)
            time = Fraction(0)
            for time, frame in reader:
                shots.see(time, frame)
                if sampled.is_due(time):
                    file.write(sampled.add(time, reader.square(frame, side)))
            file.flush()
            os.fsync(file.fileno())
            notes = list(reader.notes)
            if shown < config.size:
                notes.append(f"enlarged: its shorter side has {shown} pixels")
            source = {
                "codec": reader.codec,
                "width": reader.width,
                "height": reader.height,
                "fps": float(reader.fps or 0),
                "bytes": status.st_size,
                "modified": status.st_mtime_ns,
            }
            end = float(time + 1 / (reader.fps or 25))
        starts = [0.0, *shots.cuts()]
        scan = Scan(
            task.video, task.key, end, sampled.times, sampled.offsets, sampled.sizes,
            sampled.hashes, starts, sampled.motions(starts), side, notes, source,
        )  # fmt: skip
        pictures.replace(task.target)
        write_whole(task.target.with_suffix(".json"), json.dumps(asdict(scan)).encode())
    except BaseException:
        pictures.unlink(missing_ok=True)
        raise


def read_scan(target: Path) -> Scan:
    """What `scan_video` wrote.

    Args:
        target: as in its task.
    """
    return Scan(**json.loads(target.with_suffix(".json").read_text(encoding="utf-8")))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even when the power fails.

    Args:
        path: of the file; one that is there is replaced.
        data: its content.
    """
    fresh = path.with_name(path.name + TEMPORARY)
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def encode_picture(picture: UInt8[np.ndarray, "height width 3"], kind: str, quality: int) -> bytes:
    """A picture as the bytes of a file.

    Args:
        picture: RGB.
        kind: 'jpg' (with full colour resolution), 'webp' or 'png'.
        quality: 1 to 100; PNG is lossless.
    """
    buffer, image = io.BytesIO(), Image.fromarray(picture)
    if kind == "jpg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    elif kind == "webp":
        image.save(buffer, "WEBP", quality=quality)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


class _Sampled:
    """The pictures taken so far: never one twice, each with its true time."""

    def __init__(self, config: PrepareConfig, side: int) -> None:
        self.kind = config.format if side == config.size else "jpg"
        self.quality = config.quality if side == config.size else 95
        self.fps = Fraction(config.fps).limit_denominator(100_000)
        self.times: list[float] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.hashes: list[str] = []
        self._cells: list[np.ndarray] = []
        self._due = 0
        self._end = 0

    def is_due(self, time: Fraction) -> bool:
        """Whether the next moment of the even rate is reached."""
        return time * self.fps >= self._due - _EARLY

    def add(self, time: Fraction, picture: np.ndarray) -> bytes:
        """Take a picture; returns its bytes, which belong at the end of the file."""
        data = encode_picture(picture, self.kind, self.quality)
        self.times.append(float(time))
        self.offsets.append(self._end)
        self.sizes.append(len(data))
        self._end += len(data)
        bits = HashDetector.hash_frame(np.ascontiguousarray(picture[..., ::-1]), 8, 4)
        self.hashes.append(np.packbits(bits).tobytes().hex())
        grey = Image.fromarray(picture).convert("L")
        self._cells.append(np.asarray(grey.resize((_CELLS, _CELLS), Image.Resampling.BOX)))
        self._due = round(time * self.fps) + 1
        return data

    def motions(self, starts: Sequence[float]) -> list[float]:
        """For each shot the largest change of a cell from its first picture on."""
        firsts: dict[int, np.ndarray] = {}
        largest = [0.0] * len(starts)
        for time, cells in zip(self.times, self._cells, strict=True):
            shot = bisect_right(starts, time) - 1
            first = firsts.setdefault(shot, cells)
            change = float(np.abs(cells.astype(np.int16) - first).max())
            largest[shot] = max(largest[shot], change)
        return largest
