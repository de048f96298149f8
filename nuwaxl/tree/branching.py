"""How the keyframe tree divides: one interval into frames, and each level into how many parts.

Knows frame numbers and counts of runs, not the tree.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from math import prod

# ---- One interval ---------------------------------------------------------------------------


# Every walk down the tree divides the intervals near its top again; bounded, so that memory is too.
@lru_cache(maxsize=256)
def divide_interval(
    first: int, last: int, pins: tuple[int, ...], *, num_parts: int, max_parts: int, reach: int
) -> tuple[int, ...]:
    """Frames that divide [first, last] evenly, bent so that as many pins as fit are among them.

    Without pins and with `num_parts` of at most `reach` frames each, that is
    first + floor(i (last - first) / num_parts): gaps differ by one frame at most.

    Args:
        first: first frame, part of the result.
        last: last frame, part of the result.
        pins: ascending frame numbers between them.
        num_parts: how many parts there should be; more if `reach` or pins ask for it, fewer if
            there are not so many frames.
        max_parts: how many parts there can be, L-1.
        reach: the widest part that may be left, (L-1)^(levels below).
    """
    knots = _choose_pins(pins, first, last, reach, max_parts) if pins else [first, last]
    gaps = [right - left for left, right in pairwise(knots)]
    frames = [first]
    for left, gap, parts in zip(knots, gaps, _share_parts(gaps, reach, num_parts), strict=False):
        frames += [left + i * gap // parts for i in range(1, parts + 1)]
    return tuple(frames)


def _choose_pins(
    pins: Sequence[int], first: int, last: int, reach: int, max_parts: int
) -> list[int]:
    """The ends of an interval and the pins that its grid can hold, ascending.

    Parts are at most `reach` wide and at most `max_parts` in number. A pin costs one part, or none
    where it stands a multiple of `reach` from its neighbour, so those go first. Among equals,
    the middle pin first, then the middles of the halves: when few fit, they are spread.
    """
    knots = [first, last]
    room = max_parts - ceil_div(last - first, reach)
    for cost in (0, 1):
        for pin in _middle_out(pins):
            if len(knots) > max_parts:
                return knots
            at = bisect_left(knots, pin)
            left, right = knots[at - 1], knots[at]
            parts = ceil_div(pin - left, reach) + ceil_div(right - pin, reach)
            extra = parts - ceil_div(right - left, reach)
            if right != pin and extra <= min(cost, room):
                insort(knots, pin)
                room -= extra
    return knots


def _middle_out(items: Sequence[int]) -> Iterator[int]:
    """The middle item, then the middles of both halves, and so on."""
    halves = deque([(0, len(items))])
    while halves:
        low, high = halves.popleft()
        if low < high:
            middle = (low + high) // 2
            yield items[middle]
            halves.extend(((low, middle), (middle + 1, high)))


def _share_parts(gaps: Sequence[int], reach: int, num_parts: int) -> list[int]:
    """Divide each gap into parts of at most `reach`, `num_parts` in all or the few more it takes.

    Spare parts go where frames are farthest apart; no part is narrower than one frame.
    """
    parts = [ceil_div(gap, reach) for gap in gaps]
    if len(gaps) == 1:
        return [min(gaps[0], max(num_parts, parts[0]))]
    while sum(parts) < min(num_parts, sum(gaps)):
        widest = max(range(len(gaps)), key=lambda i: gaps[i] / parts[i])
        parts[widest] += 1
    return parts


def consecutive_runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last position of each longest run of consecutive numbers."""
    first = 0
    for position in range(1, len(frames) + 1):
        if position == len(frames) or frames[position] - frames[position - 1] > 1:
            yield first, position - 1
            first = position


# ---- All levels -----------------------------------------------------------------------------


def resolve_depth(num_frames: int, segment_length: int, depth: int | None) -> int:
    """The number of levels of a tree: the one asked for, or the smallest for None.

    Raises:
        ValueError: runs of that length reach every frame at no depth, the depth asked for is too
            small to reach every frame, or so large that a level would have no new frame.
    """
    num_gaps, max_parts = num_frames - 1, segment_length - 1
    if max_parts == 1 and num_gaps > 1:
        raise ValueError(
            f"`segment_length` must be at least 3 for a film of more than 2 frames, got "
            f"{segment_length}: runs of 2 frames have nothing between their ends."
        )
    smallest = 1
    while max_parts**smallest < num_gaps:
        smallest += 1
    if depth is None:
        return smallest
    if depth < smallest:
        raise ValueError(
            f"`depth` must be at least {smallest} to reach {num_frames} frames with "
            f"`segment_length` {segment_length}, got {depth} (up to {max_parts**depth + 1} frames)."
        )
    # The slowest tree halves its intervals: 1, 2, 4, ... of them; all must be wider than a frame.
    largest = (num_gaps - 1).bit_length() + 1 if num_gaps > 1 else 1
    if depth > largest:
        raise ValueError(
            f"`depth` must be at most {largest} for {num_frames} frames, got {depth}: "
            f"deeper levels would have no new frames."
        )
    return depth


@lru_cache(maxsize=256)
def choose_branching(num_frames: int, segment_length: int, depth: int) -> tuple[int, ...]:
    """Parts per interval at each level of a film without pins.

    Of the choices whose frames evaluated are at most 1.25 N + 2L, the most keyframes at level 0,
    and of those the fewest frames evaluated. Short runs cannot keep that bound; then the most
    keyframes among the choices within 1/16 of the fewest frames evaluated.

    Every frame is new once, and each run below level 0 reads its two ends as well: frames
    evaluated are N + 2 x (runs below level 0), so it is those runs that are counted here.

    Args:
        num_frames: N >= 1.
        segment_length: L >= 2.
        depth: a number of levels at which every frame is reached and each level has new frames.
    """
    num_gaps = num_frames - 1
    if depth == 1:
        return (num_gaps,)
    search = _BranchingSearch(num_gaps, segment_length - 1, depth)
    found: list[tuple[int, tuple[int, ...]]] = []
    for keyframe_gaps in reversed(search.choices(0, 1)):
        runs, branching = search.cheapest_from(keyframe_gaps)
        if 8 * runs <= num_frames + 8 * segment_length:  # N + 2 runs <= 1.25 N + 2 L
            return branching
        found.append((runs, branching))
    least = min(runs for runs, _ in found)
    allowed = least + (num_frames + 2 * least) // 32
    return next(branching for runs, branching in found if runs <= allowed)


class _BranchingSearch:
    """Branch and bound over n_0, n_1, ... with P_k = n_0 ... n_k intervals after level k.

    Rules: P of the last level reaches every frame, P of the level before does not (else the last
    level would have nothing new). Every interval after levels 0..m-3 is one run, since it is at
    least two frames wide; after level m-2 those are runs that are wider than one frame.
    """

    def __init__(self, num_gaps: int, max_parts: int, depth: int) -> None:
        self.num_gaps = num_gaps
        self.max_parts = max_parts
        self.last_free = depth - 2  # the last level's parts follow from the others

    def choices(self, level: int, intervals: int) -> range:
        """Allowed n_level, when P_{level-1} = `intervals`."""
        below = self.last_free - level
        fewest = ceil_div(self.num_gaps, intervals * self.max_parts ** (below + 1))
        most = (self.num_gaps - 1) // (intervals * 2**below)
        return range(max(fewest, 1 if level == 0 else 2), min(most, self.max_parts) + 1)

    def cheapest_from(self, keyframe_gaps: int) -> tuple[int, tuple[int, ...]]:
        """Fewest runs below level 0, and the branching that has them, when n_0 is fixed."""
        self.best_runs: float = float("inf")
        self.best: tuple[int, ...] = ()
        self.reached: dict[tuple[int, int], int] = {}
        self._extend((keyframe_gaps,), keyframe_gaps, 0)
        return int(self.best_runs), self.best

    def _extend(self, parts: tuple[int, ...], intervals: int, runs: int) -> None:
        """Try every continuation of `parts`; `runs` are those of the levels before the last."""
        if len(parts) - 1 == self.last_free:
            runs += self._wide(intervals)
            if runs < self.best_runs:
                self.best_runs = runs
                self.best = (*parts, ceil_div(self.num_gaps, intervals))
            return
        if self.reached.get((len(parts), intervals), runs + 1) <= runs:
            return
        self.reached[len(parts), intervals] = runs
        runs += intervals
        choices = self.choices(len(parts), intervals)
        if len(parts) == self.last_free and len(choices) > 2:
            choices = (choices[0], choices[-1])  # `_wide` rises, then falls: an end is lowest
        for num_parts in choices:
            if runs + self._fewest_runs(len(parts), intervals * num_parts) < self.best_runs:
                self._extend((*parts, num_parts), intervals * num_parts, runs)

    def _wide(self, intervals: int) -> int:
        """How many of so many even intervals are wider than one frame."""
        return min(intervals, self.num_gaps - intervals)

    def _fewest_runs(self, level: int, intervals: int) -> int:
        """A lower bound of the runs that P_level = `intervals` leads to.

        For a final P the levels between hold at least P / (L-1)^j; that is least at an end of the
        range of P, as `_wide` outweighs it on the falling side.
        """
        below = self.last_free - level
        lowest = max(intervals * 2**below, ceil_div(self.num_gaps, self.max_parts))
        highest = min(intervals * self.max_parts**below, self.num_gaps - 1)
        return min(
            self._wide(final)
            + sum(
                max(intervals * 2**up, final // self.max_parts ** (below - up))
                for up in range(below)
            )
            for final in (lowest, highest)
        )


# ---- Runs that may have certain numbers of frames only --------------------------------------


@dataclass(frozen=True, slots=True)
class RunLengths:
    """Which numbers of frames a run may have: k * `step` + 1 with k >= 1, up to `most`.

    Raises:
        ValueError: `step` is less than 1, or `most` is not such a number.
    """

    most: int
    """Frames of the longest run."""
    step: int = 1
    """1 allows every number of frames; Wan's models have 4 (5, 9, ... 81 frames), LTX 8."""
    still: bool = False
    """Whether its frames are single pictures, which show no motion without a level below."""

    def __post_init__(self) -> None:
        """Check that the longest run is an allowed one."""
        check_count("step", self.step, 1)
        check_count("segment_length", self.most, 2)
        if self.most < self.step + 1 or (self.most - 1) % self.step:
            below = max(1, (self.most - 1) // self.step) * self.step + 1
            nearest = sorted({below, below + self.step})
            raise ValueError(
                f"`segment_length` must be a multiple of {self.step} plus 1, such as "
                f"{' or '.join(map(str, nearest))}, got {self.most}."
            )

    @property
    def gaps(self) -> range:
        """The allowed numbers of gaps between a run's frames, ascending."""
        return range(self.step, self.most, self.step)

    def fit(self, num_frames: int) -> int:
        """The least allowed number of frames that is no less than `num_frames`."""
        return max(1, ceil_div(num_frames - 1, self.step)) * self.step + 1


@lru_cache(maxsize=256)
def choose_full_branching(
    num_frames: int,
    global_lengths: RunLengths,
    local_lengths: RunLengths,
    depth: int | None,
) -> tuple[int, ...]:
    """Parts per interval at each level, when every run has an allowed number of frames.

    Every level divides all its intervals into the same number of parts, so the tree has
    n_0 n_1 ... n_{m-1} + 1 frames, at least `num_frames`; the film shows the first of them, and
    only runs that hold a frame of the film count. Among the choices within 1/8 of the fewest
    frames evaluated, the one that reaches least beyond the film's end, as keyframes beyond it are
    lost; of those the one with the fewest frames evaluated. Only n_1 <= n_2 <= ... are tried:
    deeper levels have more runs, so long runs save most there.

    Args:
        num_frames: N >= 1.
        global_lengths: of level 0.
        local_lengths: of the levels below.
        depth: number of levels; None: the fewest that reach every frame and show motion.

    Raises:
        ValueError: no tree of that depth reaches every frame, or its last level has no frame of
            the film to make.
    """
    num_gaps = max(1, num_frames - 1)
    local_gaps = [gaps for gaps in local_lengths.gaps if gaps > 1]
    widest = local_gaps[-1] if local_gaps else 1
    smallest = 1
    while global_lengths.gaps[-1] * widest ** (smallest - 1) < num_gaps:
        if widest == 1:
            raise ValueError(
                f"`segment_length` must be at least 3 for a film of {num_frames} frames, got "
                f"{local_lengths.most}: runs of 2 frames have nothing between their ends."
            )
        smallest += 1
    if global_lengths.still and local_gaps and num_gaps >= local_gaps[0]:
        smallest = max(smallest, 2)
    depth = smallest if depth is None else depth
    if depth < smallest:
        raise ValueError(
            f"`depth` must be at least {smallest} to reach {num_frames} frames in runs of at most "
            f"{global_lengths.most} and {local_lengths.most} frames, got {depth}."
        )
    if depth > smallest and (not local_gaps or local_gaps[0] ** (depth - 1) > num_gaps):
        raise ValueError(
            f"`depth` must be less than {depth} for {num_frames} frames, as a run below level 0 "
            f"has at least {local_gaps[0] + 1 if local_gaps else 3} of them; {smallest} will do."
        )
    trees = list(_full_trees(num_gaps, global_lengths, local_gaps, depth))
    least = min(evaluated for _, evaluated, _ in trees)
    return min(tree for tree in trees if 8 * tree[1] <= 9 * least)[-1]


def _full_trees(
    num_gaps: int, global_lengths: RunLengths, local_gaps: Sequence[int], depth: int
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Frames of the tree, frames evaluated, and parts of every tree that reaches so far."""
    for below in combinations_with_replacement(local_gaps, depth - 1):
        keyframe_gaps = global_lengths.fit(ceil_div(num_gaps, prod(below)) + 1) - 1
        if keyframe_gaps <= global_lengths.gaps[-1]:
            parts = (keyframe_gaps, *below)
            evaluated = (
                keyframe_gaps
                + 1
                + sum(
                    ceil_div(num_gaps, prod(parts[level:])) * (parts[level] + 1)
                    for level in range(1, depth)
                )
            )
            yield prod(parts), evaluated, parts


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient of whole numbers, rounded up."""
    return -(-numerator // denominator)


# ---- Checks ---------------------------------------------------------------------------------


def check_count(name: str, value: int, least: int) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        ValueError: naming the argument.
    """
    if not (is_int(value) and value >= least):
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")


def is_int(value: object) -> bool:
    """Whether it is a whole number; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)
