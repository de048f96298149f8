"""How well a film keeps to what is known of it: pure functions on arrays.

Knows frames, labels and frame numbers, not who made the frames and not how labels were read.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nuwaxl.evaluation.motion import scroll_speeds

Frames = UInt8[np.ndarray, "frames height width 3"]

DRIFT_SHARE = 0.15
"""Share of a film, at its start and at its end, that is compared for drift."""

_UNSEEN = 0.05
"""A change in grey levels that nobody sees: scenes that stand still have no seams, not 0 / 0."""

_CELL = 8
"""Side of the cells, in pixels, on whose means flicker is measured: a scroll of a few pixels per
frame changes a cell smoothly, while a change of brightness or colour does not."""


def right_per_frame(
    read: Mapping[str, Int[np.ndarray, " frames"]], known: Mapping[str, Int[np.ndarray, " frames"]]
) -> dict[str, Float[np.ndarray, " frames"]]:
    """1 where an attribute was read as it is known, 0 where not, NaN where either is -1.

    Args:
        read: class numbers by attribute; -1 where nothing was read.
        known: the same, -1 where no viewer could tell.
    """
    return {
        name: np.where((labels < 0) | (read[name] < 0), np.nan, read[name] == labels)
        for name, labels in known.items()
    }


def caption_accuracy(
    right: Mapping[str, Float[np.ndarray, " frames"]],
) -> dict[str, float | None]:
    """Share of frames in which each attribute is right, and in which 'all' that count are.

    Args:
        right: of `right_per_frame`.
    """
    accuracy = {name: mean_of(values) for name, values in right.items()}
    accuracy["all"] = mean_of(all_right(right))
    return accuracy


def mean_of(values: Sequence[float | None] | Float[np.ndarray, " values"]) -> float | None:
    """Mean of what was measured; None when nothing was.

    Args:
        values: None or NaN where nothing was measured.
    """
    numbers = np.array([np.nan if value is None else value for value in values], float)
    seen = numbers[~np.isnan(numbers)]
    return float(seen.mean()) if len(seen) else None


def all_right(right: Mapping[str, Float[np.ndarray, " frames"]]) -> Float[np.ndarray, " frames"]:
    """1 where every attribute that counts is right, 0 where one is not, NaN where none counts.

    Args:
        right: of `right_per_frame`.
    """
    table = np.stack(list(right.values()))
    worst = np.where(np.isnan(table), 1.0, table).min(axis=0)
    return np.where(np.isnan(table).all(axis=0), np.nan, worst)


def frame_change(frames: Frames) -> Float[np.ndarray, " pairs"]:
    """Mean absolute difference of neighbouring frames, in grey levels.

    Args:
        frames: in a row.
    """
    return np.array(
        [np.abs(first.astype(np.int16) - second).mean() for first, second in pairwise(frames)]
    )


def seam_ratio(
    change: Float[np.ndarray, " pairs"],
    boundaries: Sequence[int],
    inside: Bool[np.ndarray, " pairs"] | None = None,
    *,
    reach: int = 3,
) -> float | None:
    """Change across the boundaries of segments over the change near them: 1 where none is seen.

    A boundary is the pair (b - 1, b). What is near are the pairs up to `reach` away on both sides,
    in the same scene, so that fast scenes weigh as much in both.

    Args:
        change: `frame_change` of a whole film.
        boundaries: first frame b of every part that was decoded by itself.
        inside: which pairs of neighbouring frames lie in one scene; None: all.
        reach: pairs on either side.

    Returns:
        None when no boundary lies inside a scene.
    """
    inside = np.ones(len(change), bool) if inside is None else inside
    seams = {boundary - 1 for boundary in boundaries if 0 < boundary <= len(change)}
    across, beside = [], []
    for seam in sorted(seams):
        first, stop = seam, seam + 1
        while first > 0 and inside[first - 1] and seam - first < reach:
            first -= 1
        while stop < len(change) and inside[stop] and stop - seam <= reach:
            stop += 1
        near = [pair for pair in range(first, stop) if pair not in seams]
        if inside[seam] and near:
            across.append(change[seam])
            beside.append(change[near].mean())
    if not across:
        return None
    return float((np.mean(across) + _UNSEEN) / (np.mean(beside) + _UNSEEN))


def flicker(
    frames: Frames,
    actor: Float[np.ndarray, "frames 2"] | None = None,
    *,
    actor_reach: float = 40.0,
) -> Float[np.ndarray, " triples"]:
    """Mean absolute second difference in time of the background, in grey levels.

    It is taken on the means of cells of 8x8 pixels, on which scrolling is smooth.

    Args:
        frames: of one scene, 128x128.
        actor: centre of the actor's cell (x, y), in pixels; cells nearer than `actor_reach` to
            it do not count. None: all cells do.
        actor_reach: in pixels.

    Returns:
        One value for each three frames in a row.
    """
    rows, columns = frames.shape[1] // _CELL, frames.shape[2] // _CELL
    trimmed = frames[:, : rows * _CELL, : columns * _CELL]
    cells = trimmed.reshape(len(frames), rows, _CELL, columns, _CELL, 3).mean(axis=(2, 4))
    bend = np.abs(cells[:-2] - 2 * cells[1:-1] + cells[2:]).mean(axis=-1)
    if actor is None:
        return bend.mean(axis=(1, 2))
    x = (np.arange(columns) + 0.5) * _CELL
    y = (np.arange(rows) + 0.5) * _CELL
    centre = actor[1:-1]
    far_x = np.abs(x[None, None] - centre[:, 0, None, None]) > actor_reach
    far_y = np.abs(y[None, :, None] - centre[:, 1, None, None]) > actor_reach
    counted = far_x | far_y
    return (bend * counted).sum(axis=(1, 2)) / counted.sum(axis=(1, 2))


def motion_error(
    frames: Frames,
    speeds: Float[np.ndarray, " frames"],
    fps: float,
    actor: Float[np.ndarray, "frames 2"] | None = None,
) -> Float[np.ndarray, " pairs"]:
    """Absolute error of the background's scroll, in px/s, direction included.

    Args:
        frames: of one scene, 128x128.
        speeds: known speed of the camera at each frame, px/s, to the right positive.
        fps: frames per second.
        actor: its centre (x, y) in every frame, in pixels, where known: it is left out.

    Returns:
        One value for each pair of frames half a second apart; none in a shorter scene.
    """
    measured = scroll_speeds(frames, fps, actor)
    return np.abs(measured - speeds[: len(measured)])


def drift(right: Float[np.ndarray, " frames"], share: float = DRIFT_SHARE) -> float | None:
    """Accuracy over the first part of a film less that over the last: above 0, it gets worse.

    Args:
        right: of one attribute, of `right_per_frame`.
        share: of the film that is the first and that is the last part.

    Returns:
        None when nothing counts in either part.
    """
    length = max(1, round(share * len(right)))
    first, last = mean_of(right[:length]), mean_of(right[-length:])
    return None if first is None or last is None else first - last


def identity_kept(
    actor: Int[np.ndarray, " frames"], scenes: Sequence[tuple[int, int]]
) -> float | None:
    """Share of frames that show the actor which most frames of their scene show.

    It says whether somebody stays who he is, not whether he was asked for.

    Args:
        actor: class numbers, as read.
        scenes: (first frame, frame after the last) of each.
    """
    kept = [(actor[a:b] == np.bincount(actor[a:b]).argmax()) for a, b in scenes if b > a]
    return float(np.concatenate(kept).mean()) if kept else None


def cut_errors(
    features: Float[np.ndarray, "frames dim"], cuts: Sequence[int], *, reach: int = 8
) -> list[int]:
    """How many frames each cut is from where it should be.

    A cut is found where splitting the frames around it in two leaves the least variance inside.

    Args:
        features: of each frame.
        cuts: first frame of each scene that must look different from the one before.
        reach: frames before and after that are searched, up to half the way to the next cut.
    """
    edges = [0, *cuts, len(features)]
    errors = []
    for before, cut, after in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        first = max(before if before == 0 else (before + cut + 1) // 2, cut - reach)
        stop = min(after if after == len(features) else (cut + after) // 2, cut + reach)
        around = features[first:stop]
        spread = [
            sum(((part - part.mean(axis=0)) ** 2).sum() for part in (around[:at], around[at:]))
            for at in range(1, len(around))
        ]
        if spread:
            errors.append(abs(first + 1 + int(np.argmin(spread)) - cut))
    return errors
