"""Colours that do not jump: each frame is matched to the frames around it.

Knows pictures, not where a segment begins. Every segment is a diffusion run of its own, so colour
and contrast may differ by a little from frame to frame and from run to run. Each frame gets the
mean and the spread, per colour channel, that its neighbourhood has on average.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

_CUT = 24.0
"""Mean change of small squares from one frame to the next, of 255, that only a cut makes: scrolling
at the toon world's fastest makes about 10, its mildest cuts from 30."""
_SQUARES = 8
_STRONGEST = 1.25
"""Most by which the spread is changed: a frame that differs by more shows something else."""


@dataclass(frozen=True)
class Deflicker:
    """Match each frame's colours to the mean of `radius` frames on either side.

    The neighbourhood never reaches over a cut and is as long before the frame as after it, so a
    steady change, such as nightfall, stays as it is. The result is a function of these frames
    alone: a clip shows what the whole film shows.
    """

    radius: int = 7
    """Frames on either side; 7 span a segment of the bundled model."""

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= 120:
            raise ValueError(f"`radius` must be from 1 to 120 frames, got {self.radius}.")

    @property
    def context(self) -> int:
        """Frames on either side; see `FrameStep`."""
        return self.radius

    def apply(self, frames: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
        """See `FrameStep`; holds 2 * radius + 1 frames."""
        window: deque[_Seen] = deque()
        at = 0  # place in `window` of the next frame to be given out
        previous: np.ndarray | None = None
        for frame in frames:
            squares = _mean_squares(frame)
            starts = previous is None or _is_cut(previous, squares)
            previous = squares
            window.append(_Seen(frame, *_statistics(frame), starts))
            if len(window) - at > self.radius:
                yield self._match(window, at)
                at += 1
            if at > self.radius:
                window.popleft()
                at -= 1
        for place in range(at, len(window)):
            yield self._match(window, place)

    def _match(self, window: "deque[_Seen]", at: int) -> np.ndarray:
        before = after = 0
        while before < min(self.radius, at) and not window[at - before].starts:
            before += 1
        last = min(self.radius, len(window) - 1 - at)
        while after < last and not window[at + after + 1].starts:
            after += 1
        reach, here = min(before, after), window[at]
        if not reach:
            return here.frame
        around = [window[place] for place in range(at - reach, at + reach + 1)]
        mean = np.mean([seen.mean for seen in around], axis=0)
        spread = np.mean([seen.spread for seen in around], axis=0)
        # A channel without any spread has nothing that could be stretched.
        gain = np.where(here.spread > 1, spread / np.maximum(here.spread, 1), 1.0)
        gain = gain.clip(1 / _STRONGEST, _STRONGEST)
        matched = (here.frame - here.mean) * gain + mean
        return matched.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Seen:
    """A frame in the window, and how it looks as a whole."""

    frame: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    starts: bool
    """It is the first frame, or comes after a cut."""


def flicker(frames: Iterable[np.ndarray]) -> float:
    """How much mean colours jump to and fro, of 255: the mean absolute second difference over time.

    A steady change counts as nothing, and neither do cuts.

    Args:
        frames: uint8 of shape (height, width, 3), RGB; taken one at a time.

    Raises:
        ValueError: no three frames without a cut between them.
    """
    total, count = 0.0, 0
    run: list[np.ndarray] = []
    previous: np.ndarray | None = None
    for frame in frames:
        squares = _mean_squares(frame)
        if previous is not None and _is_cut(previous, squares):
            run = []
        previous = squares
        run = [*run[-2:], _statistics(frame)[0]]
        if len(run) == 3:
            total += float(np.abs(run[0] - 2 * run[1] + run[2]).mean())
            count += 1
    if not count:
        raise ValueError("Flicker needs three frames without a cut between them, got fewer.")
    return total / count


def _statistics(
    frame: UInt8[np.ndarray, "height width 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Mean and standard deviation of each channel."""
    return frame.mean(axis=(0, 1)), frame.std(axis=(0, 1))


def _mean_squares(
    frame: UInt8[np.ndarray, "height width 3"],
) -> Float64[np.ndarray, "rows columns 3"]:
    """Mean colours of about 8 x 8 parts of the picture."""
    height, width, _ = frame.shape
    rows, columns = (max(1, -(-size // _SQUARES)) for size in (height, width))
    sums = np.add.reduceat(frame.astype(np.float64), np.arange(0, height, rows), axis=0)
    sums = np.add.reduceat(sums, np.arange(0, width, columns), axis=1)
    heights = np.diff([*range(0, height, rows), height])
    widths = np.diff([*range(0, width, columns), width])
    return sums / (heights[:, None, None] * widths[None, :, None])


def _is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    return bool(np.abs(before - after).mean() > _CUT)
