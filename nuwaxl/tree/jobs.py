"""Every job of a film and its key, before anything has run, also after the film was edited.

Knows times, prompts and identities; not latents, models or where a job runs.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Segment, Timeline

# Part of every key: raise it when a change to the keys' content must not meet old stores.
_KEY_FORMAT = 1
# Each edit may rest on the one before it, and keys are found by recursion.
_MAX_EDITS = 200
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
    edit: int = 0
    """Number of the edit that asks for it, 0 for the film as first made; not part of the key."""

    @property
    def change(self) -> Literal["none", "cut", "begins"]:
        """How the prompt changes in the segment.

        'none': not at all; 'cut': between scenes that given frames show; 'begins': to a scene that
        none of them shows.
        """
        pairs = zip(self.prompts, self.segment.given, strict=True)
        shown = {prompt for prompt, is_given in pairs if is_given}
        if not shown.issuperset(self.prompts):
            return "begins"
        return "cut" if len(shown) > 1 else "none"


@dataclass(frozen=True)
class Edit:
    """Frames `start` to `stop` - 1 are made anew; all others stay as they are, bit for bit.

    At each level, a segment with new frames in the range runs again, its frames outside the range
    given under their old identities. Every other segment keeps its key.
    """

    start: int
    stop: int
    storyline: Storyline
    """Of the whole film from now on."""
    seed: int
    """Of the noise in the range."""
    timeline: Timeline | None = None
    """A longer one makes the film longer, its new frames being the range; None: as before."""
    pinned: Mapping[int, str] = field(default_factory=dict)
    """Frames of the range that show a picture from now on, and their content hashes."""


@dataclass(frozen=True)
class _Layer:
    """What is in force in a range of frames, unless a later layer lies over it."""

    start: int
    stop: int
    timeline: Timeline
    storyline: Storyline
    seed: int
    pinned: Mapping[int, FrameSource]
    """Also those of the layers below."""

    def makes(self, frame: int) -> bool:
        """Whether a segment of this layer makes the frame."""
        return self.start <= frame < self.stop and frame not in self.pinned


class FilmPlan:
    """The jobs of one film.

    A job's key is a hash over all that decides its latents. A given frame counts by its identity,
    the key of the job that makes it, so a change of prompt or of pinned frame changes the keys of
    the segments with a frame there, and of all that descend from their new frames; no other.
    Level 0 spans the film: a prompt that changes at one of its frames changes every key, one that
    changes between two of them only the keys between these two. An `Edit` keeps all keys but
    those of the segments that make frames of its range.

    Args:
        timeline: the frames and the segments that make them.
        storyline: the prompt of every moment.
        model_fingerprint: changes when the weights or the code would give other latents.
        sampling_fingerprint: changes with the settings of the sampler.
        latent_shape: channels, height and width of one frame's latents.
        fps: frames per second; a frame's time is its number / fps.
        seed: of the film's noise.
        pinned_identities: content hash of each pinned frame of the timeline.
        edits: what was changed since, in that order.

    Attributes:
        timeline: as of the last edit.

    Raises:
        ValueError: `fps` is not positive, the identities are not those of the pinned frames, or an
            edit's range or pinned frames do not fit.
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
        edits: Sequence[Edit] = (),
    ) -> None:
        identities = pinned_identities or {}
        if not fps > 0:
            raise ValueError(f"`fps` must be greater than 0, got {fps}.")
        if sorted(identities) != sorted(timeline.pinned):
            raise ValueError(
                f"`pinned` must hold the timeline's pinned frames {sorted(timeline.pinned)}, "
                f"got {sorted(identities)}."
            )
        if len(edits) > _MAX_EDITS:
            raise ValueError(f"`edits` must be at most {_MAX_EDITS}, got {len(edits)}.")
        self.fps = fps
        pinned = {
            frame: FrameSource(pinned_key(identity), 0) for frame, identity in identities.items()
        }
        self._layers = [_Layer(0, timeline.num_planned, timeline, storyline, seed, pinned)]
        for edit in edits:
            self._layers.append(_layer_over(self._layers[-1], edit))
        self.timeline = self._layers[-1].timeline
        self._common = {
            "format": _KEY_FORMAT,
            "model": model_fingerprint,
            "sampling": sampling_fingerprint,
            "latent_shape": latent_shape,
        }
        self._jobs: OrderedDict[tuple[int, int, int], tuple[SegmentJob, tuple[SegmentJob, ...]]]
        self._jobs = OrderedDict()

    @property
    def num_edits(self) -> int:
        """Edits since the film was first made."""
        return len(self._layers) - 1

    def timeline_of(self, edit: int) -> Timeline:
        """The timeline as of an edit; 0 is the film as first made."""
        return self._layers[edit].timeline

    def job(self, segment: Segment) -> SegmentJob:
        """The job, key included, by which the segment's frames were made last.

        Args:
            segment: of `timeline`.

        Raises:
            ValueError: none of its frames is made by it: they are older than the timeline.
        """
        for edit in range(self.num_edits, -1, -1):
            if self._layers[edit].timeline != self.timeline:
                break
            if self.makes_between(edit, segment, 0, self.timeline.num_planned):
                return self._look_up(edit, segment)[0]
        raise ValueError(f"No frame of {segment} is made by it: the film was longer made later.")

    def job_of(self, edit: int, segment: Segment) -> SegmentJob:
        """The job by which an edit makes a segment of its timeline."""
        return self._look_up(edit, segment)[0]

    def between(self, frame: int, factor: int) -> SegmentJob:
        """The job of one level more: `factor` - 1 new frames after a frame, before its neighbour.

        It depends on these two frames as all local jobs do. Its frames are numbered as at `factor`
        times the frame rate, so its key is no other job's.

        Args:
            frame: of the film, but for the last.
            factor: 2 or more.
        """
        ends, _ = self.places((frame, frame + 1), self.num_edits)
        numbers = tuple(range(frame * factor, (frame + 1) * factor + 1))
        sources = (ends[0], *[None] * (factor - 1), ends[1])
        segment = Segment(self.timeline.num_levels, frame, numbers, (True,) * len(numbers))
        made_by = self.spans(frame, frame + 1)[0][0]
        # The last edit's words, and the noise of the edit that made what is here.
        layer = replace(self._layers[-1], seed=self._layers[made_by].seed)
        return self._new_job(self.num_edits, segment, sources, layer, self.fps * factor)

    def makes_between(self, edit: int, segment: Segment, start: int, stop: int) -> bool:
        """Whether the edit makes a frame of the segment from `start` to before `stop`."""
        makes = self._layers[edit].makes
        return any(start <= frame < stop and makes(frame) for frame in segment.new_frames)

    def parents(self, job: SegmentJob) -> tuple[SegmentJob, ...]:
        """The jobs that make its given frames, each once."""
        return self._look_up(job.edit, job.segment)[1]

    def spans(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The range as (edit, start, stop), in display order: which edit made which frames last."""
        spans = [(0, start, stop)]
        for edit, layer in enumerate(self._layers[1:], 1):
            below = [
                (old, max(first, low), min(last, high))
                for old, first, last in spans
                for low, high in ((first, layer.start), (layer.stop, last))
            ]
            above = (edit, max(start, layer.start), min(stop, layer.stop))
            spans = sorted(
                (span for span in (*below, above) if span[1] < span[2]), key=lambda span: span[1]
            )
        return spans

    def places(
        self, frames: Sequence[int], edit: int
    ) -> tuple[tuple[FrameSource, ...], tuple[SegmentJob, ...]]:
        """Where the frames are as of an edit, and the jobs that put them there.

        Mostly one job: the segment of an inner frame holds its ends too, as given frames, so
        nothing above it is read.
        """
        origins = {}
        for frame in (*frames[1:-1], *frames):
            if frame in origins:
                continue
            origins[frame] = self._origin(frame, edit)
            job = origins[frame][1]
            if job is not None and self._holds(job, frames, edit):
                positions = map(job.segment.frames.index, frames)
                return tuple(FrameSource(job.key, position) for position in positions), (job,)
        jobs = {job.key: job for _, job in origins.values() if job is not None}
        return tuple(origins[frame][0] for frame in frames), tuple(jobs.values())

    def _holds(self, job: SegmentJob, frames: Sequence[int], edit: int) -> bool:
        """Whether the job's latents have all the frames as they were after the edit."""
        if not set(job.segment.frames).issuperset(frames):
            return False
        # As first made, a segment's given frames are what their makers made.
        return edit == 0 or all(
            self._origin(frame, edit)[0]
            == (job.sources[position] or FrameSource(job.key, position))
            for position, frame in enumerate(job.segment.frames)
            if frame in frames
        )

    def _origin(self, frame: int, edit: int) -> tuple[FrameSource, SegmentJob | None]:
        """A frame's identity after an edit, and the job that makes it unless it is a picture."""
        while not self._layers[edit].start <= frame < self._layers[edit].stop:
            edit -= 1
        layer = self._layers[edit]
        if frame in layer.pinned:
            return layer.pinned[frame], None
        segment = layer.timeline.segment_of(frame)
        assert segment is not None, "a timeline's pinned frames are its layer's"
        job = self._look_up(edit, segment)[0]
        return FrameSource(job.key, segment.frames.index(frame)), job

    def _look_up(self, edit: int, segment: Segment) -> tuple[SegmentJob, tuple[SegmentJob, ...]]:
        """Job and parents, remembered for the segments met last: ancestors then cost nothing."""
        number = (edit, segment.level, segment.index)
        if number in self._jobs:
            self._jobs.move_to_end(number)
            return self._jobs[number]
        makes = self._layers[edit].makes
        origins = {
            frame: self._origin(frame, edit)
            for frame, given in zip(segment.frames, segment.given, strict=True)
            if given or not makes(frame)
        }
        sources = tuple(origins[f][0] if f in origins else None for f in segment.frames)
        job = self._new_job(edit, segment, sources, self._layers[edit], self.fps)
        parents = {maker.key: maker for _, maker in origins.values() if maker is not None}
        self._jobs[number] = job, tuple(parents.values())
        if len(self._jobs) > _MAX_JOBS_REMEMBERED:
            self._jobs.popitem(last=False)
        return self._jobs[number]

    def _new_job(
        self,
        edit: int,
        segment: Segment,
        sources: tuple[FrameSource | None, ...],
        layer: _Layer,
        fps: float,
    ) -> SegmentJob:
        times = tuple(frame / fps for frame in segment.frames)
        prompts = tuple(layer.storyline.prompts_at(times))
        content = self._common | {
            "seed": layer.seed,
            "level": segment.level,
            "frames": segment.frames,
            "times": times,
            "prompts": prompts,
            "given": [source and (source.key, source.position) for source in sources],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(canonical.encode()).hexdigest()
        segment = replace(segment, given=tuple(source is not None for source in sources))
        return SegmentJob(key, segment, times, prompts, layer.seed, sources, edit)


def pinned_key(identity: str) -> str:
    """What stands for the key of a picture from outside.

    Args:
        identity: its content hash.
    """
    return f"pinned:{identity}"


def _layer_over(below: _Layer, edit: Edit) -> _Layer:
    timeline = edit.timeline or below.timeline
    if not 0 <= edit.start < edit.stop <= timeline.num_frames:
        raise ValueError(
            f"An edit's range must satisfy 0 <= start < stop <= {timeline.num_frames}, got "
            f"{edit.start} and {edit.stop}."
        )
    grown = range(below.timeline.num_frames, timeline.num_frames)
    if timeline.num_frames < below.timeline.num_frames or any(
        not edit.start <= frame < edit.stop for frame in (*grown[:1], *grown[-1:])
    ):
        raise ValueError("An edit with a timeline must make all frames that were not there before.")
    if outside := [frame for frame in edit.pinned if not edit.start <= frame < edit.stop]:
        raise ValueError(f"An edit's pinned frames must lie in its range, got {outside}.")
    pinned = {
        frame: FrameSource(pinned_key(identity), 0) for frame, identity in edit.pinned.items()
    }
    # Frames beyond the film's end belong to its end.
    stop = timeline.num_planned if edit.stop == timeline.num_frames else edit.stop
    return _Layer(edit.start, stop, timeline, edit.storyline, edit.seed, {**below.pinned, **pinned})
