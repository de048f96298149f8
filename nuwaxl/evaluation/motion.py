"""How far the background has moved between two frames, by matching columns.

Knows pixels, not what they show.
"""

import numpy as np
from jaxtyping import Float, UInt8

MAX_SHIFT = 24
"""Largest shift that is looked for, in pixels: the fastest action moves 17 in `LAG_SECONDS`."""

LAG_SECONDS = 0.5
"""Time between the two frames that are matched: far enough apart for walking to differ from
jumping, near enough to share most of their view."""

_TRUNCATION = 24.0
"""Differences count up to this many grey levels: the actor keeps its place while the background
moves, and must not outvote it."""


def match_curve(
    first: UInt8[np.ndarray, "height width 3"],
    second: UInt8[np.ndarray, "height width 3"],
    max_shift: int = MAX_SHIFT,
) -> Float[np.ndarray, " shifts"]:
    """Mean truncated difference of two frames for every shift -max_shift..max_shift.

    Entry `s + max_shift` compares column x + s of `first` with column x of `second`: its minimum
    is where the camera has gone, to the right when positive.

    Args:
        first: the earlier frame.
        second: the later frame.
        max_shift: largest shift, in pixels.
    """
    # Every second row is enough, and 16-bit whole numbers are fast.
    before, after = (frame[::2].astype(np.int16) for frame in (first, second))
    width = before.shape[1]
    curve = np.empty(2 * max_shift + 1)
    for shift in range(-max_shift, max_shift + 1):
        left, right = max(0, shift), min(width, width + shift)
        difference = np.abs(before[:, left:right] - after[:, left - shift : right - shift])
        curve[shift + max_shift] = np.minimum(difference, int(_TRUNCATION)).mean()
    return curve


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
    frames: UInt8[np.ndarray, "frames height width 3"], fps: float
) -> Float[np.ndarray, " pairs"]:
    """Speed of the camera between frames half a second apart, px/s, to the right positive.

    Entry t is for frames t and t + lag. Too short a clip has none.

    Args:
        frames: of one scene.
        fps: frames per second.
    """
    lag = max(1, round(LAG_SECONDS * fps))
    pairs = zip(frames[:-lag], frames[lag:], strict=True)
    shifts = [best_shift(match_curve(first, second)) for first, second in pairs]
    return np.array(shifts) * fps / lag
