"""How far the background has moved between two frames, by matching columns.

Knows pixels, not what they show.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

MAX_SHIFT = 24
"""Largest shift that is looked for, in pixels: the fastest action moves 17 in `LAG_SECONDS`."""

LAG_SECONDS = 0.5
"""Time between the two frames that are matched: far enough apart for walking to differ from
jumping, near enough to share most of their view."""

_TRUNCATION = 24
"""Differences count up to this many grey levels, so that no small thing outvotes the rest."""

_ACTOR_REACH = 34.0
"""Half the side of the square around the actor that is left out, in pixels: it keeps its place
while the background moves."""


def match_curve(
    first: UInt8[np.ndarray, "height width 3"],
    second: UInt8[np.ndarray, "height width 3"],
    actor: Float[np.ndarray, " 2"] | None = None,
    *,
    max_shift: int = MAX_SHIFT,
) -> Float[np.ndarray, " shifts"]:
    """Mean truncated difference of two frames for every shift -max_shift..max_shift.

    Entry `s + max_shift` compares column x + s of `first` with column x of `second`: its minimum
    is where the camera has gone, to the right when positive.

    Args:
        first: the earlier frame.
        second: the later frame.
        actor: centre (x, y) of who is to be left out, in pixels; None: nobody.
        max_shift: largest shift, in pixels.
    """
    before, after = _grey(first), _grey(second)
    rows, width = before.shape
    seen = np.ones((rows, width), bool)
    if actor is not None:
        near_x = np.abs(np.arange(width) + 0.5 - actor[0]) < _ACTOR_REACH
        near_y = np.abs(2 * np.arange(rows) + 0.5 - actor[1]) < _ACTOR_REACH
        seen = ~(near_y[:, None] & near_x)
    curve = np.empty(2 * max_shift + 1)
    for shift in range(-max_shift, max_shift + 1):
        left, right = max(0, shift), min(width, width + shift)
        difference = np.abs(before[:, left:right] - after[:, left - shift : right - shift])
        both = seen[:, left:right] & seen[:, left - shift : right - shift]
        counted = np.minimum(difference, _TRUNCATION) * both
        curve[shift + max_shift] = counted.sum() / max(1, both.sum())
    return curve


def _grey(frame: UInt8[np.ndarray, "height width 3"]) -> Int[np.ndarray, "rows width"]:
    """Luminance of every second row, which is enough, in 16-bit whole numbers, which are fast."""
    weighted = frame[::2].astype(np.uint16) * np.array([77, 150, 29], np.uint16)
    return (weighted.sum(axis=-1, dtype=np.uint16) >> 8).astype(np.int16)


def best_shift(curve: Float[np.ndarray, " shifts"]) -> float:
    """The shift of the curve's minimum, in pixels, refined by a parabola; 0 where all is flat.

    Args:
        curve: of `match_curve`.
    """
    max_shift = len(curve) // 2
    if curve.max() - curve.min() < 1e-9:
        return 0.0
    at = int(curve.argmin())
    if not 0 < at < len(curve) - 1:
        return float(at - max_shift)
    left, middle, right = curve[at - 1 : at + 2]
    bend = left - 2 * middle + right
    return at - max_shift + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def scroll_speeds(
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: float,
    actor: Float[np.ndarray, "frames 2"] | None = None,
) -> Float[np.ndarray, " pairs"]:
    """Speed of the camera between frames half a second apart, px/s, to the right positive.

    Entry t is for frames t and t + lag. Too short a clip has none.

    Args:
        frames: of one scene.
        fps: frames per second.
        actor: its centre (x, y) in every frame, in pixels, where known.
    """
    lag = max(1, round(LAG_SECONDS * fps))
    shifts = [
        best_shift(
            match_curve(
                frames[start],
                frames[start + lag],
                None if actor is None else actor[[start, start + lag]].mean(axis=0),
            )
        )
        for start in range(len(frames) - lag)
    ]
    return np.array(shifts) * fps / lag
