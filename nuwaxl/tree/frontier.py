"""What is asked of a film and what stands between that and being made.

Knows the order of segments and which wait for which; not how they run or what is in them.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from nuwaxl.tree.jobs import FilmPlan, FrameSource, SegmentJob
from nuwaxl.tree.timeline import Segment, Timeline, Window

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

    num_workers: int = 0
    """Batches that run beside the caller."""
    queue: deque[Request[ItemT]] = field(default_factory=deque)
    """Requests taken and not yet handed out."""
    in_flight: dict[Future[Tensor], tuple[list[SegmentJob], Tensor]] = field(default_factory=dict)
    """Batches with a worker, and their given latents."""
    last_frames: dict[str, int] = field(default_factory=dict)
    """Last frame of every segment met and not yet passed, by key."""
    _ready: dict[tuple[bool, int, str], list[tuple[int, int, SegmentJob]]] = field(
        default_factory=dict
    )
    """By kind, heaps of jobs whose given frames exist, by urgency and number."""
    _blocked: dict[str, tuple[int, SegmentJob, set[str]]] = field(default_factory=dict)
    """The other jobs by key, each with its number and the keys that it waits for."""
    _blocks: dict[str, list[str]] = field(default_factory=dict)
    """Keys of the jobs that wait for a key."""
    _unfinished: set[str] = field(default_factory=set)
    """Keys of all jobs that wait or run."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of jobs, in the order wished for."""

    def want(self, job: SegmentJob) -> None:
        """Have the job run when its given frames exist; what makes them is to be wanted before.

        Args:
            job: one that is not in the store, and was not wanted before.
        """
        sources = {source.key for source in job.sources if source is not None}
        missing = sources & self._unfinished
        self._unfinished.add(job.key)
        number = next(self._numbers)
        if missing:
            self._blocked[job.key] = number, job, missing
            for key in missing:
                self._blocks.setdefault(key, []).append(job.key)
        else:
            self._make_ready(number, job)

    def next_batch(self, batch_size: int) -> list[SegmentJob]:
        """Take the first jobs whose given frames exist and that can share a batch.

        Few jobs are shared out among all workers, rather than given to one of them in a full batch.

        Args:
            batch_size: at most so many jobs.
        """
        if not self._ready:
            return []
        kind = min(self._ready, key=lambda each: self._ready[each][0][:2])
        heap = self._ready[kind]
        size = min(batch_size, -(-len(heap) // max(1, self.num_workers)))
        batch = [heapq.heappop(heap)[2] for _ in range(size)]
        if not heap:
            del self._ready[kind]
        return batch

    def finish(self, key: str) -> None:
        """Hear that a job's segment is in the store, and let go what waited for it alone.

        Args:
            key: of the job.
        """
        self._unfinished.discard(key)
        for blocked in self._blocks.pop(key, ()):
            number, job, missing = self._blocked[blocked]
            missing.discard(key)
            if not missing:
                del self._blocked[blocked]
                self._make_ready(number, job)

    def _make_ready(self, number: int, job: SegmentJob) -> None:
        # Jobs of one role and one number of frames can be one call of a model. Where the prompt
        # changes a model may take more effort; apart, each call has a batch of one shape.
        kind = job.segment.level == 0, len(job.segment.frames), job.change
        # Finer jobs wait for coarse ones: if those waited in display order for their turn, some of
        # several workers would stand idle each time that the film leaves a coarse segment.
        urgency = job.segment.level if self.num_workers > 1 else 0
        entry = urgency, number, job
        heapq.heappush(self._ready.setdefault(kind, []), entry)

    def next_finished(self, *, in_order: bool) -> Request[ItemT] | None:
        """Take the first request whose segments are made; in order, only the first of all."""
        for request in itertools.islice(self.queue, 1) if in_order else self.queue:
            if self._unfinished.isdisjoint(request.jobs):
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
                _shown_jobs(plan, edit, _descend(timeline, timeline.root, lowest))
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
        for window in _coarse_windows(timeline, timeline.root, lowest):
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
    last_shown = timeline.num_frames - 1
    is_last = end >= last_shown
    if start < min(end, last_shown) or last_shown == 0:
        between = (frame for frame in segment.frames if start < frame < end)
        frames = tuple(sorted({start, *between, end}))
        frames = tuple(frame for frame in frames if frame <= last_shown)
        yield Window(frames, len(frames) if is_last else len(frames) - 1)
