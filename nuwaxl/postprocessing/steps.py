"""Steps one after the other, on a whole film or on any range of it, with the same frames.

Knows streams of pictures, not what a step does to them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Picture = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class FrameStep(Protocol):
    """Pictures in, as many pictures out."""

    @property
    def context(self) -> int:
        """On how many frames before and after it a frame's result depends."""
        ...

    def apply(self, frames: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
        """The finished pictures, in order.

        Args:
            frames: uint8 of shape (height, width, 3), RGB, in display order.
            first: number in the film of the first of them.
        """
        ...


def finish(
    frames: Iterable[np.ndarray], steps: Sequence[FrameStep], first: int = 0
) -> Iterator[np.ndarray]:
    """All steps on a film's frames.

    Args:
        frames: uint8 of shape (height, width, 3), RGB, in display order.
        steps: taken in this order.
        first: number in the film of the first frame.
    """
    stream: Iterator[np.ndarray] = iter(frames)
    for step in steps:
        stream = step.apply(stream, first)
    return stream


def finish_range(
    read: Callable[[int, int], Iterable[np.ndarray]],
    steps: Sequence[FrameStep],
    start: int,
    stop: int,
    num_frames: int,
) -> Iterator[np.ndarray]:
    """Frames `start` to `stop` of the finished film, bit for bit, from a part of it alone.

    Args:
        read: (start, stop) -> the film's own frames, such as `film.frames`.
        steps: taken in this order.
        start: first frame.
        stop: frame to stop before.
        num_frames: of the whole film.

    Raises:
        ValueError: the range is empty or leaves the film.
    """
    if not 0 <= start < stop <= num_frames:
        raise ValueError(
            f"`start` and `stop` must be frames with 0 <= start < stop <= {num_frames}, got "
            f"{start} and {stop}."
        )
    reach = sum(step.context for step in steps)
    low, high = max(0, start - reach), min(num_frames, stop + reach)
    yield from islice(finish(read(low, high), steps, low), start - low, stop - low)
