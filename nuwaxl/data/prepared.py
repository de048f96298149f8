"""A prepared dataset: long videos as pictures with their times and captions, any moment at once.

A folder holds `dataset.json` (how it was made), `manifest.jsonl` (a line for each video), and for
each video `shards/KEY.tar` (a WebDataset shard, a picture and a .json for each frame) with
`shards/KEY.npy`, which says where in the shard the picture of which moment lies.

Knows files and times, not how they came about or what learns from them.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

FRAME_INDEX = np.dtype([("time", "f8"), ("offset", "i8"), ("size", "i4")])
"""A row of `shards/KEY.npy`: seconds from the video's first frame, and bytes in the shard."""


@dataclass(frozen=True)
class Shot:
    """What one camera showed without a cut."""

    start: float
    """Seconds from the video's first frame."""
    end: float
    first: int
    """Number of its first picture among those of the video."""
    num_frames: int
    hash: str = ""
    """Perceptual hashes of pictures spread over it, 16 hexadecimal digits each."""


@dataclass(frozen=True)
class PreparedVideo:
    """A line of the manifest: one video, whole, but for the shots that were left out."""

    video: str
    """Path of the source in its folder."""
    key: str
    """Name of its files in `shards/`."""
    duration: float
    """Seconds of the source, including what was left out."""
    num_frames: int
    shots: tuple[Shot, ...]
    captions: tuple[tuple[int, str], ...] = ()
    """(number of the first picture, caption), each in force until the next."""
    captioned_by: str = ""
    """'sidecar', 'captioner' or nothing."""
    dropped: tuple[Mapping[str, Any], ...] = ()
    """Shots left out: start, end, reason."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was read."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Of the file: codec, width, height, fps, bytes, modified (ns)."""

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> "PreparedVideo":
        """Read a line of the manifest.

        Args:
            row: its JSON.
        """
        return PreparedVideo(
            **{
                **row,
                "shots": tuple(Shot(**shot) for shot in row["shots"]),
                "captions": tuple((int(first), text) for first, text in row["captions"]),
                "dropped": tuple(row["dropped"]),
                "notes": tuple(row["notes"]),
            }
        )

    def caption_at(self, frame: int) -> str:
        """The caption of a picture; empty where there is none.

        Args:
            frame: its number in the video.
        """
        firsts = self._caption_firsts
        place = int(np.searchsorted(firsts, frame, side="right")) - 1
        return self.captions[place][1] if place >= 0 else ""

    @cached_property
    def _caption_firsts(self) -> np.ndarray:
        return np.array([first for first, _ in self.captions], np.int64)


class PreparedDataset:
    """Reads a folder that `nuwaxl prepare` wrote.

    Args:
        folder: of the dataset.

    Attributes:
        size: height and width of the pictures.
        fps: pictures per second that were asked for.
        videos: in the manifest's order.

    Raises:
        ValueError: it is no dataset, or holds no video.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            settings = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
            lines = (self.folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"`dataset` must be a folder that `nuwaxl prepare` wrote to its end, got "
                f"{str(folder)!r}: {error.strerror} ({error.filename})."
            ) from None
        self.size, self.fps = int(settings["size"]), float(settings["fps"])
        self.videos = tuple(PreparedVideo.from_row(json.loads(line)) for line in lines)
        if not self.videos:
            raise ValueError(f"The dataset {str(folder)!r} holds no video.")
        self._index: dict[int, np.ndarray] = {}

    def times(self, video: int) -> Float64[np.ndarray, " frames"]:
        """Seconds of every picture of a video, rising.

        Args:
            video: its number in `videos`.
        """
        return np.asarray(self._rows(video)["time"])

    def picture(self, video: int, frame: int) -> UInt8[np.ndarray, "size size 3"]:
        """One picture.

        Args:
            video: its number in `videos`.
            frame: its number in the video.
        """
        row = self._rows(video)[frame]
        with (self.folder / "shards" / f"{self.videos[video].key}.tar").open("rb") as shard:
            shard.seek(int(row["offset"]))
            data = shard.read(int(row["size"]))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    def draw(
        self, rng: np.random.Generator, num_frames: int, spacing: float
    ) -> tuple[int, np.ndarray]:
        """Evenly spaced pictures of one video, every moment of the dataset as likely as another.

        Where pictures are missing (a shot was left out, the frame rate varies) the nearest ones
        are taken, each once, so true times may be less even than asked for.

        Args:
            rng: source of all chance.
            num_frames: how many.
            spacing: seconds between them.

        Returns:
            The video's number and the pictures' numbers in it, (num_frames,), rising.

        Raises:
            ValueError: no video is long enough.
        """
        span = (num_frames - 1) * spacing
        room = np.array(
            [
                last - span + 1 / self.fps if count >= num_frames else 0.0
                for last, count in self._extents
            ]
        ).clip(min=0)
        if not room.any():
            raise ValueError(
                f"No video of {str(self.folder)!r} holds {num_frames} pictures {spacing:g} s "
                f"apart; the longest lasts {self.longest:g} s: ask for fewer or closer ones."
            )
        video = int(rng.choice(len(room), p=room / room.sum()))
        times, count = self.times(video), self.videos[video].num_frames
        start = rng.uniform(0, max(0.0, float(times[-1]) - span))
        wanted = start + spacing * np.arange(num_frames)
        after = np.searchsorted(times, wanted).clip(1, max(1, count - 1))
        nearest = after - (wanted - times[after - 1] <= times[after.clip(max=count - 1)] - wanted)
        # Each once: pushed later where two want the same one, then back from the end.
        steps = np.arange(num_frames)
        later = np.maximum.accumulate(nearest - steps) + steps
        return video, np.minimum(later, count - num_frames + steps)

    @property
    def longest(self) -> float:
        """Seconds between the first and the last picture of the longest video."""
        return max(last for last, _ in self._extents)

    @cached_property
    def _extents(self) -> list[tuple[float, int]]:
        return [(float(self.times(i)[-1]), len(self.times(i))) for i in range(len(self.videos))]

    def _rows(self, video: int) -> np.ndarray:
        if video not in self._index:
            path = self.folder / "shards" / f"{self.videos[video].key}.npy"
            self._index[video] = np.load(path, mmap_mode="r")
        return self._index[video]
