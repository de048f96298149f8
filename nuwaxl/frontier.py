"""What is asked of a film and what stands between that and being made.

Knows the order of segments and which wait for which; not how they run or what is in them.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from nuwaxl.jobs import FilmPlan, FrameSource, SegmentJob
from nuwaxl.timeline import Segment, Timeline, Window

Order = Literal["display", "level"]
ItemT = TypeVar("ItemT", SegmentJob, Window)


@dataclass(frozen=True)
class Request(Generic[ItemT]):
    """Something to hand out once its segments are made."""

    item: ItemT
    start: int
    """Its first frame; in display order, no later request starts before it."""
    jobs: Mapping[str, SegmentJob]
    """Those that must be in the store, by key."""
    places: tuple[FrameSource, ...] = ()
    """Where a window's frames lie in them."""


@dataclass
class Frontier(Generic[ItemT]):
    """Where the making of a film stands; its size follows the look-ahead, not the film."""

    queue: deque[Request[ItemT]] = field(default_factory=deque)
    """Requests taken and not yet handed out."""
    waiting: dict[str, SegmentJob] = field(default_factory=dict)
    """Jobs by key, in the order wished for, sources before what needs them."""
    in_flight: dict[Future[Tensor], tuple[list[SegmentJob], Tensor]] = field(default_factory=dict)
    """Batches with a worker, and their given latents."""
    last_frames: dict[str, int] = field(default_factory=dict)
    """Last frame of every segment met and not yet passed, by key."""

    def next_batch(self, batch_size: int) -> list[SegmentJob]:
        """Take the first job whose given frames exist, and others that can share its batch."""
        unfinished = self._unfinished()
        ready = (
            job
            for job in self.waiting.values()
            if not any(source is not None and source.key in unfinished for source in job.sources)
        )
        first = next(ready, None)
        if first is None:
            return []
        alike = (job for job in ready if _batch_kind(job) == _batch_kind(first))
        batch = [first, *islice(alike, batch_size - 1)]
        for job in batch:
            del self.waiting[job.key]
        return batch

    def next_finished(self, *, in_order: bool) -> Request[ItemT] | None:
        """Take the first request whose segments are made; in order, only the first of all."""
        unfinished = self._unfinished()
        for request in islice(self.queue, 1) if in_order else self.queue:
            if unfinished.isdisjoint(request.jobs):
                self.queue.remove(request)
                if not in_order:
                    # Nothing is passed in this order; from here on the store knows them.
                    for key in request.jobs:
                        self.last_frames.pop(key, None)
                return request
        return None

    def passed(self, request: Request[Any]) -> list[str]:
        """Forget and return, in display order, the segments that end before the request.

        A segment's new frames and all that is made from them lie before its last frame, which is
        given. (The global segment makes its last frame, but nothing comes after it.)
        """
        keys = [
            key
            for key, last_frame in self.last_frames.items()
            if last_frame <= request.start and key not in request.jobs
        ]
        for key in keys:
            del self.last_frames[key]
        return keys

    def _unfinished(self) -> set[str]:
        running = (job.key for jobs, _ in self.in_flight.values() for job in jobs)
        return {*self.waiting, *running}


def segment_requests(
    plan: FilmPlan, order: Order, max_level: int | None
) -> Iterator[Request[SegmentJob]]:
    """Ask for each segment down to `max_level`, level by level or in display order.

    Raises:
        ValueError: no such order, or `max_level` is negative.
    """
    lowest = _lowest_level(plan.timeline, max_level)
    if order not in ("display", "level"):
        raise ValueError(f"`order` must be 'display' or 'level', got {order!r}.")
    edits = range(plan.num_edits + 1)
    if order == "level":
        jobs = (
            job
            for level in range(lowest + 1)
            for edit in edits
            for job in _shown_jobs(plan, edit, _level(plan.timeline_of(edit), level))
        )
    else:
        # Depth first is ascending by first frame, then level, so several films merge into one.
        jobs = heapq.merge(
            *(
                _shown_jobs(plan, edit, _descend(timeline, _root(timeline), lowest))
                for edit in edits
                for timeline in (plan.timeline_of(edit),)
            ),
            key=lambda job: (job.segment.frames[0], job.segment.level),
        )
    for job in jobs:
        yield Request(job, job.segment.frames[0], {job.key: job})


def window_requests(
    plan: FilmPlan, start: int, stop: int | None, max_level: int | None
) -> Iterator[Request[Window]]:
    """Ask for each decoding window that the range meets, in display order.

    Where an edit begins or ends inside a window, the window is asked for as it was before and as
    it is after: frames outside the edit's range so keep their pixels, whatever the decoder makes
    of neighbours.

    Raises:
        ValueError: the range is not within the film, or `max_level` is negative.
    """
    timeline = plan.timeline
    lowest = _lowest_level(timeline, max_level)
    end = timeline.num_frames if stop is None else stop
    if lowest == timeline.num_levels - 1:
        timeline.windows(start, stop)  # which checks the range
        for edit, first, last in plan.spans(start, end):
            for window in plan.timeline_of(edit).windows(first, last):
                yield _window_request(plan, edit, window, first, last)
    else:
        for window in _coarse_windows(timeline, _root(timeline), lowest):
            if window.frames[0] < end and window.shown[-1] >= start:
                places, jobs = plan.places(window.frames, plan.num_edits)
                yield Request(window, window.frames[0], {job.key: job for job in jobs}, places)


def _window_request(
    plan: FilmPlan, edit: int, window: Window, first: int, last: int
) -> Request[Window]:
    """The window as of an edit; frames that another edit shows are left out."""
    if plan.num_edits:
        shown = [at for at in range(window.keep) if first <= window.frames[at] < last]
        window = Window(window.frames, shown[-1] + 1, shown[0])
    places, jobs = plan.places(window.frames, edit)
    return Request(window, window.frames[0], {job.key: job for job in jobs}, places)


def _shown_jobs(plan: FilmPlan, edit: int, segments: Iterable[Segment]) -> Iterator[SegmentJob]:
    """The jobs of an edit that make a frame which no later edit makes again."""
    shown = plan.spans(0, plan.timeline.num_frames)
    for segment in segments:
        if plan.num_edits == 0 or any(
            each == edit and plan.makes_between(edit, segment, start, stop)
            for each, start, stop in shown
        ):
            yield plan.job_of(edit, segment)


def _level(timeline: Timeline, level: int) -> Iterator[Segment]:
    return timeline.level(level) if level < timeline.num_levels else iter(())


def _lowest_level(timeline: Timeline, max_level: int | None) -> int:
    lowest = timeline.num_levels - 1
    if max_level is None:
        return lowest
    if max_level < 0:
        raise ValueError(f"`max_level` must be at least 0, got {max_level}.")
    return min(max_level, lowest)


def _root(timeline: Timeline) -> Segment:
    """The global segment, also when pinned frames leave it nothing to make."""
    frames = timeline.keyframes
    return Segment(0, 0, frames, tuple(timeline.is_pinned(frame) for frame in frames))


def _descend(timeline: Timeline, segment: Segment, lowest: int) -> Iterator[Segment]:
    if segment.new_frames:
        yield segment
    for child in _children(timeline, segment, lowest):
        yield from _descend(timeline, child, lowest)


def _children(timeline: Timeline, segment: Segment, lowest: int) -> Iterator[Segment]:
    if segment.level < lowest:
        # Where pins leave a run nothing to make, the timeline names the runs below it instead.
        yield from (child for child in timeline.children(segment) if child.level <= lowest)


def _coarse_windows(timeline: Timeline, segment: Segment, lowest: int) -> Iterator[Window]:
    """Windows inside the segment over the frames of levels down to `lowest` only."""
    start, end = segment.frames[0], segment.frames[-1]
    for child in _children(timeline, segment, lowest):
        yield from _coarse_window(timeline, segment, start, child.frames[0])
        yield from _coarse_windows(timeline, child, lowest)
        start = child.frames[-1]
    yield from _coarse_window(timeline, segment, start, end)


def _coarse_window(timeline: Timeline, segment: Segment, start: int, end: int) -> Iterator[Window]:
    """The window of the segment's frames from `start` to `end`, if there is anything between."""
    is_last = end == timeline.num_frames - 1
    if start < end or timeline.num_frames == 1:
        frames = tuple(sorted({start, end, *(f for f in segment.frames if start < f < end)}))
        yield Window(frames, len(frames) if is_last else len(frames) - 1)


def _batch_kind(job: SegmentJob) -> tuple[bool, int]:
    """Jobs of one role and one number of frames can be one call of a model."""
    return job.segment.level == 0, len(job.segment.frames)
