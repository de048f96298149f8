"""What a caller asks for, checked and made plain: lengths, seeds, pictures.

Knows arguments and their rules, not networks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8

from nuwaxl.pictures.reading import Picture, read_picture
from nuwaxl.tree.storyline import Story, Storyline, parse_length, parse_time
from nuwaxl.tree.timeline import Timeline


@dataclass(frozen=True)
class FilmEdit:
    """Frames of a finished film that are made anew; all others stay as they are, bit for bit."""

    start: int
    """First frame of the range."""
    stop: int
    """Frame after its last."""
    storyline: Storyline
    """Of the whole film from now on; what it says of the range counts."""
    seed: int
    """Of the noise in the range."""
    num_frames: int | None = None
    """Makes the film longer: frames of the whole from now on, the new ones being the range."""
    images: Mapping[int | str, Picture] = field(default_factory=dict)
    """Frame or time of the range -> picture to show there from now on."""


def check_fps(fps: float) -> float:
    """Frames per second, if they can be.

    Args:
        fps: what the caller said.

    Raises:
        ValueError: not a number above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"`fps` must be a number above 0, got {fps}.")
    return fps


def count_frames(
    num_frames: int | None,
    length: str | None,
    prompt: Story | Storyline,
    *,
    depth: int | None,
    fps: float,
    segment_length: int,
) -> int:
    """The film's number of frames from the one way in which it was said.

    Args:
        num_frames: the number itself.
        length: frames ('240') or a time ('30s').
        prompt: a story, whose scenes may say when they end.
        depth: levels; alone it asks for the full tree's (L-1)^depth + 1 frames.
        fps: frames per second.
        segment_length: L.

    Raises:
        ValueError: said twice or not at all, or not a number of frames.
    """
    if num_frames is not None and length is not None:
        raise ValueError(
            "`num_frames` and `length` both say how long the film is: give one of them."
        )
    if num_frames is not None:
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(
                f"`num_frames` must be a whole number of 1 or more, got {num_frames!r}."
            )
        return num_frames
    if length is not None:
        return parse_length(length, fps)
    if depth is not None:
        return Timeline.full(depth, segment_length).num_frames
    duration = None if isinstance(prompt, Storyline) else Storyline.duration_of(prompt)
    if duration is not None:
        return max(1, math.floor(duration * fps + 0.5))
    raise ValueError(
        "The film's length is missing: give `num_frames` (240), `length` ('30s') or `depth` (3"
        f" makes {Timeline.full(3, segment_length).num_frames} frames)."
    )


def choose_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The film's seed: as said, drawn from `generator`, or 0.

    Args:
        seed: what the caller said.
        generator: from which a seed is drawn, which moves it on.

    Raises:
        ValueError: both are given, or the seed is out of range.
    """
    if generator is not None:
        if seed is not None:
            raise ValueError("`seed` and `generator` both decide the noise: give one of them.")
        return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    if seed is None:
        return 0
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be a whole number from 0 to 2**63 - 1, got {seed!r}.")
    return seed


def read_pictures(
    images: Mapping[int | str, Picture], *, num_frames: int, fps: float, height: int, width: int
) -> dict[int, UInt8[np.ndarray, "height width 3"]]:
    """Pictures by the frame that shows them, at the film's size.

    Args:
        images: frame number or time ('5s', taken to the nearest frame) -> picture.
        num_frames: of the film.
        fps: frames per second.
        height: of the film, in pixels.
        width: of the film, in pixels.

    Raises:
        ValueError: a frame outside the film or named twice, or no picture.
    """
    pictures: dict[int, np.ndarray] = {}
    for moment, picture in images.items():
        frame = round(parse_time(moment) * fps) if isinstance(moment, str) else moment
        if not 0 <= frame < num_frames:
            raise ValueError(
                f"`images` must lie in frames 0 to {num_frames - 1}, got {frame} ({moment!r})."
            )
        if frame in pictures:
            raise ValueError(
                f"`images` must have one picture for a frame, got two for frame {frame}."
            )
        pictures[frame] = read_picture(picture, height=height, width=width)
    return pictures
