"""What is asked of a film and what stands between that and being made.

Knows the order of segments and which wait for which; not how they run or what is in them.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

from nuwaxl.jobs import FilmPlan, SegmentJob
from nuwaxl.timeline import Segment, Timeline, Window

Order = Literal["display", "level"]
ItemT = TypeVar("ItemT", Segment, Window)


@dataclass(frozen=True)
class Request(Generic[ItemT]):
    """Something to hand out once its segments are made."""

    item: ItemT
    start: int
    """Its first frame; in display order, no later request starts before it."""
    segments: Mapping[str, Segment]
    """The segments that must be in the store, by key."""


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
            if unfinished.isdisjoint(request.segments):
                self.queue.remove(request)
                if not in_order:
                    # Nothing is passed in this order; from here on the store knows them.
                    for key in request.segments:
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
            if last_frame <= request.start and key not in request.segments
        ]
        for key in keys:
            del self.last_frames[key]
        return keys

    def _unfinished(self) -> set[str]:
        running = (job.key for jobs, _ in self.in_flight.values() for job in jobs)
        return {*self.waiting, *running}


def segment_requests(
    plan: FilmPlan, order: Order, max_level: int | None
) -> Iterator[Request[Segment]]:
    """Ask for each segment down to `max_level`, level by level or in display order.

    Raises:
        ValueError: no such order, or `max_level` is negative.
    """
    lowest = _lowest_level(plan.timeline, max_level)
    if order == "level":
        segments = (
            segment for level in range(lowest + 1) for segment in plan.timeline.level(level)
        )
    elif order == "display":
        segments = _descend(plan.timeline, _root(plan.timeline), lowest)
    else:
        raise ValueError(f"`order` must be 'display' or 'level', got {order!r}.")
    for segment in segments:
        yield Request(segment, segment.frames[0], {plan.job(segment).key: segment})


def window_requests(
    plan: FilmPlan, start: int, stop: int | None, max_level: int | None
) -> Iterator[Request[Window]]:
    """Ask for each decoding window that the range meets, in display order.

    Raises:
        ValueError: the range is not within the film, or `max_level` is negative.
    """
    timeline = plan.timeline
    lowest = _lowest_level(timeline, max_level)
    if lowest == timeline.num_levels - 1:
        windows = timeline.windows(start, stop)
    else:
        end = timeline.num_frames if stop is None else stop
        windows = (
            window
            for window in _coarse_windows(timeline, _root(timeline), lowest)
            if window.frames[0] < end and window.frames[window.keep - 1] >= start
        )
    for window in windows:
        segments = _segments_of(timeline, window)
        yield Request(window, window.frames[0], {plan.job(each).key: each for each in segments})


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


def _segments_of(timeline: Timeline, window: Window) -> list[Segment]:
    """The fewest segments that hold the window's frames, pinned ones aside.

    Mostly one: the segment of an inner frame holds the window's ends too, as given frames, so
    nothing above it is read.
    """
    makers: dict[int, Segment | None] = {}
    for frame in (*window.frames[1:-1], *window.frames):
        maker = makers.setdefault(frame, timeline.segment_of(frame))
        if maker is not None and set(maker.frames).issuperset(window.frames):
            return [maker]
    return list(dict.fromkeys(maker for maker in makers.values() if maker is not None))


def _batch_kind(job: SegmentJob) -> tuple[bool, int]:
    """Jobs of one role and one number of frames can be one call of a model."""
    return job.segment.level == 0, len(job.segment.frames)
