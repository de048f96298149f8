"""Shots that two videos share, by perceptual hash.

Knows hashes and durations, not pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_HASHES = 4
"""Pictures compared of each shot, evenly spread."""
_MAX_BITS = 6.0
"""Of 64 that differ on average between the same picture twice: coded anew, scaled, darkened."""
_LENGTH_TOLERANCE = 0.05


@dataclass(frozen=True)
class ShotPrint:
    """What a shot is recognised by."""

    video: str
    start: float
    """Seconds."""
    duration: float
    hash: str
    """`NUM_HASHES` hashes of 16 hexadecimal digits."""


def shot_hash(hashes: list[str]) -> str:
    """The hash of a shot from those of its pictures.

    Args:
        hashes: of one picture or more.
    """
    places = np.linspace(0, len(hashes) - 1, NUM_HASHES).round().astype(int)
    return "".join(hashes[place] for place in places)


def find_duplicates(
    known: Iterable[ShotPrint], fresh: Sequence[ShotPrint]
) -> dict[tuple[str, float], str]:
    """Shots that a video before them shows too.

    Within one video nothing is a duplicate: a film cuts back to the same view, and what it shows
    then is another moment.

    Args:
        known: shots that stay whatever comes.
        fresh: in their order; the first of two equal ones stays.

    Returns:
        (video, start) of each duplicate -> the video that shows it already.
    """
    kept = list(known)
    bits = np.zeros((len(kept) + len(fresh), NUM_HASHES), np.uint64)
    lengths = np.zeros(len(bits))
    names = np.zeros(len(bits), np.int64)
    numbers: dict[str, int] = {}
    for row, shot in enumerate(kept):
        bits[row], lengths[row] = _bits(shot), shot.duration
        names[row] = numbers.setdefault(shot.video, len(numbers))
    duplicates: dict[tuple[str, float], str] = {}
    for shot in fresh:
        own, name = _bits(shot), numbers.setdefault(shot.video, len(numbers))
        end = len(kept)
        distance = np.bitwise_count(bits[:end] ^ own).mean(axis=1)
        allowed = np.maximum(0.25, _LENGTH_TOLERANCE * shot.duration)
        alike = (distance <= _MAX_BITS) & (np.abs(lengths[:end] - shot.duration) <= allowed)
        matches = np.flatnonzero(alike & (names[:end] != name))
        if len(matches):
            duplicates[shot.video, shot.start] = kept[int(matches[0])].video
        else:
            bits[end], lengths[end], names[end] = own, shot.duration, name
            kept.append(shot)
    return duplicates


def _bits(shot: ShotPrint) -> np.ndarray:
    return np.array(
        [int(shot.hash[i : i + 16], 16) for i in range(0, len(shot.hash), 16)], np.uint64
    )
