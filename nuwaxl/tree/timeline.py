"""The keyframe tree: which diffusion run makes which frame of a film (paper section 3.3).

Knows frame numbers, not pixels, prompts, seconds or devices.

A run at level 0 makes sparse keyframes from the first frame to the last. Each interval between two
neighbouring known frames is filled by a run of the next level, until every frame exists. Every
run holds at most `segment_length` (L) frames. Nothing here is stored: a segment is found by going
down the tree, so a film of a billion frames costs no more memory than one of sixteen.

Models that can only make certain numbers of frames get a tree in which every run has one of them
(`lengths`). It mostly has more frames than the film, which shows the first of them; runs that lie
beyond its end do not exist.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod

from nuwaxl.tree.branching import (
    RunLengths,
    check_count,
    choose_branching,
    choose_full_branching,
    consecutive_runs,
    divide_interval,
    is_int,
    resolve_depth,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One diffusion run: a level-0 run over the whole film, or the filling of one interval."""

    level: int
    """0 is the global run; deeper runs are local."""
    index: int
    """Number of its interval within the level: unique there, ascending in time, 0 at level 0."""
    frames: tuple[int, ...]
    """Ascending frame numbers, 2 to L of them (1 in a film of one frame)."""
    given: tuple[bool, ...]
    """Which of `frames` exist before the run: its two ends below level 0, and pinned frames."""

    @property
    def new_frames(self) -> tuple[int, ...]:
        """The frames that this run makes."""
        return tuple(f for f, given in zip(self.frames, self.given, strict=True) if not given)

    @property
    def given_frames(self) -> tuple[int, ...]:
        """The frames that this run needs."""
        return tuple(f for f, given in zip(self.frames, self.given, strict=True) if given)


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive frames of one segment that are decoded to pixels together."""

    frames: tuple[int, ...]
    """Consecutive frame numbers, at most L; neighbouring windows share their end frame."""
    keep: int
    """Leading frames whose pixels this window yields; the next one yields the shared last."""
    skip: int = 0
    """How many of those are left out, because another window shows them after an edit."""

    @property
    def shown(self) -> tuple[int, ...]:
        """The frames whose pixels this window yields."""
        return self.frames[self.skip : self.keep]


@dataclass(frozen=True)
class Timeline:
    """The plan of a film: every frame 0..N-1 is new in exactly one segment, or pinned.

    A full tree of depth m has N = (L-1)^m + 1 frames: 16, 226, 3376, 50626 for L = 16 (paper
    section 3.3). Any other N gets the same tree with fewer frames in some runs.

    Raises:
        ValueError: a number out of its range, a depth too small to reach every frame, or one so
            large that a level would make nothing new.
    """

    num_frames: int
    """N, the frames of the film."""
    segment_length: int = 16
    """L, the most frames in one run."""
    depth: int | None = None
    """Number of levels, the global one counted; None takes the fewest that reach every frame."""
    pinned: tuple[int, ...] = ()
    """Frames that exist before anything runs; kept ascending and distinct."""
    lengths: tuple[RunLengths, RunLengths] | None = None
    """Which numbers of frames the runs of level 0 and those below may have; None: 2 to L."""
    branching: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Parts into which each level divides its intervals, each at most L-1; pinned frames may make
    single intervals have more. A level-0 run has branching[0] + 1 frames."""
    num_planned: int = field(init=False, repr=False, compare=False)
    """Frames that the tree has; beyond `num_frames` they are made where a run holds them, and not
    shown."""

    def __post_init__(self) -> None:
        """Check the numbers and choose the branching."""
        check_count("num_frames", self.num_frames, 1)
        check_count("segment_length", self.segment_length, 2)
        if self.depth is not None:
            check_count("depth", self.depth, 1)
        pinned = tuple(sorted(set(self.pinned)))
        for frame in pinned:
            self._check_frame(frame, "`pinned` frames")
        object.__setattr__(self, "pinned", pinned)
        if self.lengths is None:
            depth = resolve_depth(self.num_frames, self.segment_length, self.depth)
            branching = choose_branching(self.num_frames, self.segment_length, depth)
            num_planned = self.num_frames
        else:
            branching = choose_full_branching(self.num_frames, *self.lengths, self.depth)
            num_planned = prod(branching) + 1
        object.__setattr__(self, "branching", branching)
        object.__setattr__(self, "num_planned", num_planned)

    @classmethod
    def full(cls, depth: int, segment_length: int = 16) -> "Timeline":
        """The paper's tree: every run has L frames, and N = (L-1)^depth + 1."""
        check_count("depth", depth, 1)
        check_count("segment_length", segment_length, 2)
        return cls((segment_length - 1) ** depth + 1, segment_length, depth)

    @classmethod
    def in_lengths(
        cls,
        num_frames: int,
        global_lengths: RunLengths,
        local_lengths: RunLengths,
        *,
        depth: int | None = None,
        pinned: tuple[int, ...] = (),
    ) -> "Timeline":
        """A tree whose runs all have an allowed number of frames.

        Intervals of a level are alike, whatever is pinned: a pinned frame is given to the run on
        whose frames it lies.
        """
        most = max(global_lengths.most, local_lengths.most)
        return cls(num_frames, most, depth, pinned, (global_lengths, local_lengths))

    # ---- The tree: one interval, its grid, the intervals below it --------------------------

    def _segment(self, level: int, index: int, first: int, last: int) -> Segment:
        """The run over [first, last]; it may turn out to have nothing new if pins fill it."""
        frames = self._grid(level, first, last)
        ends_given = level > 0
        given = tuple(
            (ends_given and frame in (first, last)) or self.is_pinned(frame) for frame in frames
        )
        return Segment(level, index, frames, given)

    @property
    def root(self) -> Segment:
        """The global run, also when pinned frames leave it nothing to make."""
        return self._segment(0, 0, 0, self.num_planned - 1)

    def _grid(self, level: int, first: int, last: int) -> tuple[int, ...]:
        """The frames of the run over [first, last]: an even grid, bent to hold pins.

        No part is wider than what the levels below can fill, (L-1)^levels. At the last level that
        is one frame, so every pin lies on some grid at the latest there.
        """
        if self.lengths is not None:
            parts = self.branching[level]
            return divide_interval(
                first, last, (), num_parts=parts, max_parts=parts, reach=last - first
            )
        max_parts = self.segment_length - 1
        return divide_interval(
            first,
            last,
            self.pinned[bisect_right(self.pinned, first) : bisect_left(self.pinned, last)],
            num_parts=self.branching[level],
            max_parts=max_parts,
            reach=max_parts ** (self.num_levels - 1 - level),
        )

    def _below(self, segment: Segment, position: int) -> Segment | None:
        """The run that fills the interval after `segment.frames[position]`, if it has a gap."""
        first, last = segment.frames[position : position + 2]
        if last - first <= 1 or first >= self.num_frames - 1:
            return None
        # Pins may add parts to an interval, so numbers then leave room for the most there can be.
        stride = self.segment_length - 1 if self.pinned else self.branching[segment.level]
        return self._segment(segment.level + 1, segment.index * stride + position, first, last)

    def _all_below(self, segment: Segment) -> Iterator[Segment]:
        for position in range(len(segment.frames) - 1):
            if below := self._below(segment, position):
                yield below

    def _path(self, frame: int) -> list[Segment]:
        """The runs from level 0 down to the one on whose grid `frame` lies."""
        path = [self.root]
        while frame not in path[-1].frames:
            below = self._below(path[-1], bisect_right(path[-1].frames, frame) - 1)
            assert below is not None, "a frame between two others lies in an interval with a gap"
            path.append(below)
        return path

    # ---- Orders ---------------------------------------------------------------------------

    def level(self, level: int) -> Iterator[Segment]:
        """The segments of one level, ascending; all of them may run at the same time.

        Raises:
            ValueError: there is no such level.
        """
        if not 0 <= level < self.num_levels:
            raise ValueError(f"`level` must be 0 to {self.num_levels - 1}, got {level}.")
        return (segment for segment in self._walk_level(level) if segment.new_frames)

    def _walk_level(self, level: int) -> Iterator[Segment]:
        if level == 0:
            yield self.root
        else:
            for above in self._walk_level(level - 1):
                yield from self._all_below(above)

    def segments(self) -> Iterator[Segment]:
        """All segments, level by level: the order for many workers and for an early preview."""
        for level in range(self.num_levels):
            yield from self.level(level)

    def display_order(self) -> Iterator[Segment]:
        """All segments, depth first: the order in which the film can be watched while it is made.

        A parent comes before its children, and children come in time order.
        """
        yield from self._walk_down(self.root)

    def _walk_down(self, segment: Segment) -> Iterator[Segment]:
        if segment.new_frames:
            yield segment
        for below in self._all_below(segment):
            yield from self._walk_down(below)

    # ---- Relations ------------------------------------------------------------------------

    def children(self, segment: Segment) -> Iterator[Segment]:
        """The segments next below, in time order.

        Where pins leave a run nothing to make, the runs below it take its place.
        """
        for below in self._all_below(segment):
            if below.new_frames:
                yield below
            else:
                yield from self.children(below)

    def parent(self, segment: Segment) -> Segment | None:
        """The segment whose interval `segment` fills; None at the top of the tree."""
        above = self._path(segment.new_frames[0])[: segment.level]
        return next((each for each in reversed(above) if each.new_frames), None)

    def is_pinned(self, frame: int) -> bool:
        """Whether `frame` exists before anything runs."""
        if not self.pinned:
            return False
        at = bisect_left(self.pinned, frame)
        return at < len(self.pinned) and self.pinned[at] == frame

    def segment_of(self, frame: int) -> Segment | None:
        """The one segment in which `frame` is new; None if it is pinned.

        Args:
            frame: of the film, or one beyond its end that a run of the film holds.
        """
        if frame >= self.num_planned:
            self._check_frame(frame)
        return None if self.is_pinned(frame) else self._path(frame)[-1]

    def source(self, segment: Segment, frame: int) -> Segment | None:
        """The segment that made a given frame of `segment`; None if the frame is pinned.

        Raises:
            ValueError: `frame` is not among the segment's given frames.
        """
        if frame not in segment.given_frames:
            raise ValueError(
                f"`frame` must be one of the given frames {segment.given_frames}, got {frame}."
            )
        return self.segment_of(frame)

    def ancestry(self, frame: int) -> tuple[Segment, ...]:
        """The fewest segments that must run, in this order, so that `frame` exists."""
        self._check_frame(frame)
        if self.is_pinned(frame):
            return ()
        wanted = {frame}
        needed: list[Segment] = []
        for segment in reversed(self._path(frame)):
            if not wanted.isdisjoint(segment.new_frames):
                needed.append(segment)
                wanted.update(segment.given_frames)
        return tuple(reversed(needed))

    # ---- Counts ---------------------------------------------------------------------------

    @property
    def num_levels(self) -> int:
        """m, the number of levels: no frame needs more runs one after another."""
        return len(self.branching)

    @property
    def keyframes(self) -> tuple[int, ...]:
        """The film's frames of level 0, pinned ones among them: the preview of the whole film."""
        return tuple(frame for frame in self.root.frames if frame < self.num_frames)

    @property
    def segments_per_level(self) -> tuple[int, ...]:
        """Number of segments at each level."""
        return tuple(self._tally(0, 0, self.num_planned - 1, {})[:-1])

    @property
    def num_segments(self) -> int:
        """Number of runs that make the film."""
        return sum(self.segments_per_level)

    @property
    def frames_evaluated(self) -> int:
        """Frames that pass through a model, given ones counted in every run that reads them."""
        return self._tally(0, 0, self.num_planned - 1, {})[-1]

    def _tally(self, level: int, first: int, last: int, known: dict) -> list[int]:
        """Segments per level in the subtree over [first, last], then its frames evaluated.

        Subtrees without pins and of equal width are alike, and a level has two widths of them, so
        `known` holds a few entries per level and the cost grows with the pins, not with N.
        """
        is_alike = bisect_right(self.pinned, first) == bisect_left(self.pinned, last) and level > 0
        is_alike = is_alike and last < self.num_frames
        if is_alike and (level, last - first) in known:
            return known[level, last - first]
        segment = self._segment(level, 0, first, last)
        tally = [0] * (self.num_levels + 1)
        if segment.new_frames:
            tally[level] = 1
            tally[-1] = len(segment.frames)
        for left, right in pairwise(segment.frames):
            if right - left > 1 and left < self.num_frames - 1:
                below = self._tally(level + 1, left, right, known)
                tally = [a + b for a, b in zip(tally, below, strict=True)]
        if is_alike:
            known[level, last - first] = tally
        return tally

    # ---- Decoding -------------------------------------------------------------------------

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Window]:
        """Decoding windows, in time order, that yield pixels of frames start..stop-1.

        A window is a longest run of consecutive frames in one segment: mostly a whole segment of
        the last level. A frame's pixels so depend on one segment only, whatever is decoded before
        it. All windows together yield each frame once; the first and the last of a range may
        reach beyond it, since pixels depend on the whole window.

        Raises:
            ValueError: the range is not inside the film.
        """
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise ValueError(
                f"`start` and `stop` must satisfy 0 <= start <= stop <= {self.num_frames}, "
                f"got {start} and {stop}."
            )
        return self._windows(self.root, start, stop) if start < stop else iter(())

    def _windows(self, segment: Segment, start: int, stop: int) -> Iterator[Window]:
        frames, end = segment.frames, self.num_frames - 1
        for at, to in consecutive_runs(frames):
            first, last = frames[at], frames[to]
            yield_stop = last if last < end else end + 1
            if (at < to or end == 0) and first < stop and start < yield_stop:
                yield Window(frames[at : to + 1], yield_stop - first)
            is_wanted = start < frames[min(to + 1, len(frames) - 1)] or start == end
            if to + 1 < len(frames) and last < min(stop, end) and is_wanted:
                below = self._below(segment, to)
                assert below is not None, "runs of consecutive frames end at a gap"
                yield from self._windows(below, start, stop)

    def _check_frame(self, frame: int, name: str = "`frame`") -> None:
        if not (is_int(frame) and 0 <= frame < self.num_frames):
            raise ValueError(f"{name} must be numbers 0 to {self.num_frames - 1}, got {frame!r}.")
