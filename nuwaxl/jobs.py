"""Every job of a film and its key, before anything has run.

Knows times, prompts and identities; not latents, models or where a job runs.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from nuwaxl.storyline import Storyline
from nuwaxl.timeline import Segment, Timeline

# Part of every key: raise it when a change to the keys' content must not meet old stores.
_KEY_FORMAT = 1
# Far more than the segments in sight of any batch and their ancestors; 1 to 2 kB each.
_MAX_JOBS_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class FrameSource:
    """The identity of a given frame."""

    key: str
    """Key of the segment that made it, or "pinned:" and a pinned frame's content hash."""
    position: int
    """Its position among that segment's frames; 0 for a pinned frame."""


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """All that decides a segment's latents, up to rounding: small, picklable, no tensors."""

    key: str
    """Address in the store: hash of the fields below, the model and its settings."""
    segment: Segment
    times: tuple[float, ...]
    """Seconds from the start of the film, one for each frame."""
    prompts: tuple[str, ...]
    """The prompt in force at each frame's time."""
    seed: int
    sources: tuple[FrameSource | None, ...]
    """Where each given frame comes from; None for a frame that this job makes."""


class FilmPlan:
    """The jobs of one film.

    A job's key is a hash over all that decides its latents. A given frame counts by its identity,
    the key of the job that makes it, so a change of prompt or of pinned frame changes the keys of
    the segments with a frame there, and of all that descend from their new frames; no other.
    Level 0 spans the film: a prompt that changes at one of its frames changes every key, one that
    changes between two of them only the keys between these two.

    Args:
        timeline: the frames and the segments that make them.
        storyline: the prompt of every moment.
        model_fingerprint: changes when the weights or the code would give other latents.
        sampling_fingerprint: changes with the settings of the sampler.
        latent_shape: channels, height and width of one frame's latents.
        fps: frames per second; a frame's time is its number / fps.
        seed: of the film's noise.
        pinned_identities: content hash of each pinned frame of the timeline.

    Raises:
        ValueError: `fps` is not positive, or the identities are not those of the pinned frames.
    """

    def __init__(
        self,
        timeline: Timeline,
        storyline: Storyline,
        *,
        model_fingerprint: str,
        sampling_fingerprint: str,
        latent_shape: tuple[int, int, int],
        fps: float,
        seed: int,
        pinned_identities: Mapping[int, str] | None = None,
    ) -> None:
        identities = pinned_identities or {}
        if not fps > 0:
            raise ValueError(f"`fps` must be greater than 0, got {fps}.")
        if sorted(identities) != sorted(timeline.pinned):
            raise ValueError(
                f"`pinned` must hold the timeline's pinned frames {sorted(timeline.pinned)}, "
                f"got {sorted(identities)}."
            )
        self.timeline = timeline
        self.storyline = storyline
        self.fps = fps
        self.seed = seed
        self._pinned = {
            frame: FrameSource(f"pinned:{identity}", 0) for frame, identity in identities.items()
        }
        self._common = {
            "format": _KEY_FORMAT,
            "model": model_fingerprint,
            "sampling": sampling_fingerprint,
            "latent_shape": latent_shape,
            "seed": seed,
        }
        self._jobs: OrderedDict[tuple[int, int], tuple[SegmentJob, tuple[Segment, ...]]]
        self._jobs = OrderedDict()

    def job(self, segment: Segment) -> SegmentJob:
        """The segment's job, key included."""
        return self._look_up(segment)[0]

    def parents(self, segment: Segment) -> tuple[Segment, ...]:
        """The segments that make its given frames, each once."""
        return self._look_up(segment)[1]

    def _look_up(self, segment: Segment) -> tuple[SegmentJob, tuple[Segment, ...]]:
        """Job and parents, remembered for the segments met last: ancestors then cost nothing."""
        number = (segment.level, segment.index)
        if number in self._jobs:
            self._jobs.move_to_end(number)
            return self._jobs[number]
        makers = {frame: self.timeline.source(segment, frame) for frame in segment.given_frames}
        sources = {
            frame: self._pinned[frame]
            if maker is None
            else FrameSource(self.job(maker).key, maker.frames.index(frame))
            for frame, maker in makers.items()
        }
        job = self._new_job(segment, tuple(map(sources.get, segment.frames)))
        parents = tuple(dict.fromkeys(maker for maker in makers.values() if maker is not None))
        self._jobs[number] = job, parents
        if len(self._jobs) > _MAX_JOBS_REMEMBERED:
            self._jobs.popitem(last=False)
        return job, parents

    def _new_job(self, segment: Segment, sources: tuple[FrameSource | None, ...]) -> SegmentJob:
        times = tuple(frame / self.fps for frame in segment.frames)
        prompts = tuple(self.storyline.prompts_at(times))
        content = self._common | {
            "level": segment.level,
            "frames": segment.frames,
            "times": times,
            "prompts": prompts,
            "given": [source and (source.key, source.position) for source in sources],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(canonical.encode()).hexdigest()
        return SegmentJob(key, segment, times, prompts, self.seed, sources)
