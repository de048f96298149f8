"""Where the camera is at every frame of a segment: as seed, prompts, times and given frames tell.

Knows jobs and what is read from prompts and given frames, not networks.
"""

import hashlib
from collections.abc import Sequence

from nuwaxl.tree.coarse_to_fine import SegmentJob

CAMERA_RULE = "as planned, unless given frames are elsewhere"
"""How positions follow from a job, in the key of what it makes: change it with the code."""

_AS_PLANNED = 0.05
"""How far, in turns, a given frame may seem to be from where its film has the camera: what is read
from a frame is right to about a hundredth, and a picture from elsewhere is anywhere."""


def camera_positions(
    job: SegmentJob, speeds: Sequence[float], seen: Sequence[float]
) -> list[float]:
    """Positions of a segment's frames, in turns around their places, in [0, 1).

    A scene's camera starts anywhere, as seed and prompt decide, and travels as the prompt tells, so
    that all segments of a film agree. Given frames that show another position, as pictures from
    outside and frames of an earlier seed do, are travelled on from, and to.

    Args:
        job: the segment.
        speeds: that the frames' prompts tell, in turns per second.
        seen: what given frames show, in turns; anything where a frame is new.
    """
    planned = [
        _start(job.seed, prompt) + speed * time
        for prompt, speed, time in zip(job.prompts, speeds, job.times, strict=True)
    ]
    missed = [_short_way(shown - position) for shown, position in zip(seen, planned, strict=True)]
    missed = [way if abs(way) > _AS_PLANNED else 0.0 for way in missed]
    positions = []
    for frame, (prompt, time) in enumerate(zip(job.prompts, job.times, strict=True)):
        anchors = [
            other
            for other, is_given in enumerate(job.segment.given)
            if is_given and job.prompts[other] == prompt
        ]
        before = max((other for other in anchors if other <= frame), default=None)
        after = min((other for other in anchors if other >= frame), default=None)
        if before is not None and after is not None and after > before:
            share = (time - job.times[before]) / (job.times[after] - job.times[before])
            way = missed[before] + share * _short_way(missed[after] - missed[before])
        else:
            nearest = before if before is not None else after
            way = 0.0 if nearest is None else missed[nearest]
        positions.append((planned[frame] + way) % 1)
    return positions


def _short_way(turns: float) -> float:
    """The same angle, at most half a turn either way."""
    return turns - round(turns)


def _start(seed: int, prompt: str) -> float:
    """Where a scene's camera would have been when the film begins, in turns."""
    digest = hashlib.blake2b(f"{seed} {prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
