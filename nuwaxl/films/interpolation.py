"""A film at a higher frame rate: one more level of the keyframe tree.

Knows a film's frames and its model; not files or prompts. Between two neighbouring frames a local
run makes new ones. It depends on these two frames, their times, prompts and the seed, as every run
of the tree does, so a clip shows what the whole film shows. The film's own frames stay bit for bit
what they were, and nothing is put into its store.
"""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.films.film import Film, to_picture
from nuwaxl.tree.coarse_to_fine import OnSegment


class _Known(NamedTuple):
    frame: int
    latents: Tensor
    picture: np.ndarray


def check_factor(factor: int, segment_length: int) -> None:
    """Refuse a number of frames that no local run makes.

    Args:
        factor: by which the frame rate grows.
        segment_length: most frames of a run.

    Raises:
        ValueError: it is below 2, or a run would be too long.
    """
    if not 2 <= factor <= segment_length - 1:
        raise ValueError(
            f"`factor` must be from 2 to {segment_length - 1}, the frames of a run less one, got"
            f" {factor}."
        )


def interpolated_frames(
    film: Film,
    factor: int,
    start: int = 0,
    stop: int | None = None,
    *,
    on_segment: OnSegment | None = None,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Pictures of a range of the film, with `factor` - 1 new ones between neighbours.

    From n frames come (n - 1) * factor + 1, to be shown at `factor` times the frame rate. Memory
    does not grow with the film.

    Args:
        film: any.
        factor: 2 doubles the frame rate.
        start: first frame, by the film's own number.
        stop: frame to stop before; None: the end of the film.
        on_segment: called with job and latents of each run of the film itself.

    Raises:
        ValueError: `factor` is no number of frames that a run makes, or the range is none.
    """
    check_factor(factor, film.timeline.segment_length)
    stop = film.checked_stop(start, stop)
    known = _known_frames(film, start, stop, on_segment)
    held = list(islice(known, 1))
    yield held[0].picture
    while more := list(islice(known, film.orchestrator.executor.batch_size)):
        held = [held[-1], *more]
        for between, (_, after) in zip(_fill(film, factor, held), pairwise(held), strict=True):
            yield from between
            yield after.picture


def _fill(film: Film, factor: int, held: list[_Known]) -> list[list[np.ndarray]]:
    """The new pictures after each frame but the last."""
    orchestrator = film.orchestrator
    jobs = [orchestrator.plan.between(one.frame, factor) for one in held[:-1]]
    given = held[0].latents.new_zeros(len(jobs), factor + 1, *held[0].latents.shape)
    for row, (before, after) in enumerate(pairwise(held)):
        given[row, 0], given[row, -1] = before.latents, after.latents
    runs = orchestrator.executor.submit(jobs, given).result()
    windows = [
        torch.cat([g[:1], run[1:-1], g[-1:]]) for g, run in zip(given, runs.cpu(), strict=True)
    ]
    pictures = []
    for window in windows:  # one by one: a frame's pixels shall not depend on the batch
        pictures.append([to_picture(pixels) for pixels in film.codec.decode([window])[0][1:-1]])
    return pictures


def _known_frames(
    film: Film, start: int, stop: int, on_segment: OnSegment | None
) -> Iterator[_Known]:
    """The film's own frames, decoded as `Film.pixels` does."""
    windows = film.orchestrator.windows(start, stop, on_segment=on_segment)
    while batch := list(islice(windows, film.windows_per_batch)):
        decoded = film.codec.decode([latents for _, latents in batch])
        for (window, latents), pixels in zip(batch, decoded, strict=True):
            skip = window.skip
            for frame, own, shown in zip(window.shown, latents[skip:], pixels[skip:], strict=False):
                if start <= frame < stop:
                    yield _Known(frame, own, to_picture(shown))
