"""Other plans for the same networks: a sequential sliding window, and keyframes made in a row.

Knows frame numbers and how a plan becomes a film; not what a film shows.

Both are timelines, so they run on the same weights, sampler, executor and decoder as the keyframe
tree, and a difference in the result is one of the plan.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.executors.local import LocalExecutor
from nuwaxl.films.film import Film
from nuwaxl.parts.components import LongVideoComponents
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import Orchestrator
from nuwaxl.tree.timeline import Segment, Timeline, Window


class ListedTimeline(Timeline):
    """A plan that says its segments in order and which of them makes a frame; the rest follows.

    Counts take one pass over all segments, which a baseline can afford.
    """

    def level(self, level: int) -> Iterator[Segment]:
        """The segments of one level, ascending."""
        return (segment for segment in self.display_order() if segment.level == level)

    def parent(self, segment: Segment) -> Segment | None:
        """The segment that made the last of its given frames; None at the start."""
        return self.source(segment, segment.given_frames[-1]) if any(segment.given) else None

    def children(self, segment: Segment) -> Iterator[Segment]:
        """The segments whose parent it is."""
        return (each for each in self.display_order() if self.parent(each) == segment)

    def ancestry(self, frame: int) -> tuple[Segment, ...]:
        """The segments that must run, in this order, so that `frame` exists."""
        needed: dict[Segment, None] = {}

        def need(segment: Segment | None) -> None:
            if segment is not None and segment not in needed:
                for given in segment.given_frames:
                    need(self.source(segment, given))
                needed[segment] = None

        need(self.segment_of(frame))
        return tuple(needed)

    @property
    def segments_per_level(self) -> tuple[int, ...]:
        """Number of segments at each level."""
        return tuple(sum(1 for _ in self.level(level)) for level in range(self.num_levels))

    @property
    def frames_evaluated(self) -> int:
        """Frames that pass through a model, given ones included."""
        return sum(len(segment.frames) for segment in self.display_order())


@dataclass(frozen=True)
class SequentialTimeline(ListedTimeline):
    """Every segment goes on from the last frames of the one before: the sliding window.

    The first is a level-0 run, which has nothing given; the others are local runs with their
    first `overlap` frames given. What goes wrong in one is given to the next.

    Raises:
        ValueError: pinned frames, or an overlap that leaves a segment less than half new.
    """

    overlap: int = 4
    """Frames given to each segment by the one before."""

    def __post_init__(self) -> None:
        """Check the overlap, and that nothing is pinned."""
        super().__post_init__()
        if not 1 <= self.overlap <= self.segment_length // 2:
            raise ValueError(
                f"`overlap` must be 1 to {self.segment_length // 2}, half of `segment_length`, got"
                f" {self.overlap}."
            )
        if self.pinned:
            raise ValueError(f"`pinned` must be empty in a sequential plan, got {self.pinned}.")

    @property
    def num_levels(self) -> int:
        """Level 0 for the first segment and level 1 for the others."""
        return 2

    def _link(self, number: int) -> Segment:
        """Segment `number` of the chain."""
        first = number * (self.segment_length - self.overlap)
        frames = tuple(range(first, min(first + self.segment_length, self.num_frames)))
        given = tuple(number > 0 and position < self.overlap for position in range(len(frames)))
        return Segment(min(number, 1), number, frames, given)

    def display_order(self) -> Iterator[Segment]:
        """All segments, which have one order only."""
        return map(self._link, range(self.segment_of(self.num_frames - 1).index + 1))

    def segment_of(self, frame: int) -> Segment:
        """The one segment in which `frame` is new."""
        step = self.segment_length - self.overlap
        return self._link(max(0, (frame - self.overlap) // step))

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Window]:
        """The new frames of each segment that meets the range are decoded together."""
        stop = self.num_frames if stop is None else stop
        first, last = self.segment_of(start).index, self.segment_of(stop - 1).index
        for number in range(first, last + 1):
            frames = self._link(number).new_frames
            yield Window(frames, len(frames))


@dataclass(frozen=True)
class HierarchyTimeline(ListedTimeline):
    """Keyframes in a row, then what lies between them: FDM's "hierarchy-2".

    Keyframes are `segment_length` - 1 frames apart and made by a chain of level-0 runs, each given
    the last `overlap` keyframes of the one before (Harvey et al. 2022, section 3); local runs fill
    the gaps as in the tree's lowest level.

    Raises:
        ValueError: as `SequentialTimeline`.
    """

    overlap: int = 4
    """Keyframes given to each level-0 run by the one before."""

    def __post_init__(self) -> None:
        """Check as the chain of keyframes does."""
        super().__post_init__()
        assert self._chain is not None

    @property
    def num_levels(self) -> int:
        """Keyframes, and the frames between them."""
        return 2

    @property
    def _spacing(self) -> int:
        return self.segment_length - 1

    @cached_property
    def _chain(self) -> SequentialTimeline:
        """The keyframes as a film of their own."""
        num_keyframes = -(-(self.num_frames - 1) // self._spacing) + 1
        return SequentialTimeline(
            num_keyframes, self.segment_length, pinned=self.pinned, overlap=self.overlap
        )

    def _frame(self, keyframe: int) -> int:
        return min(keyframe * self._spacing, self.num_frames - 1)

    def _keyframes(self, keyframe: int) -> Segment:
        """The run that makes a keyframe."""
        link = self._chain.segment_of(keyframe)
        return Segment(0, link.index, tuple(map(self._frame, link.frames)), link.given)

    def display_order(self) -> Iterator[Segment]:
        """A run of keyframes, then the runs that fill the gaps between them."""
        seen = set()
        for window in self.windows():
            for frame in (window.frames[0], window.frames[-1], *window.frames[1:2]):
                segment = self.segment_of(frame)
                if (segment.level, segment.index) not in seen:
                    seen.add((segment.level, segment.index))
                    yield segment

    def segment_of(self, frame: int) -> Segment:
        """The one segment in which `frame` is new."""
        gap, offset = divmod(frame, self._spacing)
        if offset == 0 or frame == self.num_frames - 1:
            return self._keyframes(gap + (offset > 0))
        frames = tuple(range(self._frame(gap), self._frame(gap + 1) + 1))
        ends = (frames[0], frames[-1])
        return Segment(1, gap, frames, tuple(each in ends for each in frames))

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Window]:
        """The frames from one keyframe to the next are decoded together."""
        stop = self.num_frames if stop is None else stop
        last_gap = max(0, -(-(self.num_frames - 1) // self._spacing) - 1)
        for gap in range(min(start // self._spacing, last_gap), last_gap + 1):
            frames = tuple(range(self._frame(gap), self._frame(gap + 1) + 1))
            if frames[0] >= stop:
                return
            yield Window(frames, len(frames) - (gap < last_gap))


def planned_film(
    pipeline: LongVideoComponents,
    timeline: Timeline,
    film: KnownFilm,
    *,
    sampling: SamplingConfig,
    seed: int,
    batch_size: int = 8,
    pinned: Mapping[int, Float[Tensor, "channels height width"]] | None = None,
) -> Film:
    """The film that a plan makes of a story's prompts; nothing runs yet.

    Args:
        pipeline: whose networks make it, at the size that they were trained at.
        timeline: the plan.
        film: its prompts and its frame rate.
        sampling: how a segment is denoised.
        seed: of the film's noise.
        batch_size: segments denoised together, where the plan allows any.
        pinned: latents of the plan's pinned frames.
    """
    denoiser = pipeline.denoiser(sampling)
    orchestrator = Orchestrator(
        timeline,
        film.storyline,
        LocalExecutor(denoiser, batch_size=batch_size),
        MemoryStore(),
        model_fingerprint=denoiser.fingerprint,
        sampling_fingerprint=sampling.fingerprint(),
        latent_shape=denoiser.latent_shape,
        fps=film.fps,
        seed=seed,
        pinned=pinned,
    )
    return Film(orchestrator, pipeline.codec(), windows_per_batch=batch_size)
