"""The rows of an evaluation: the same stories as real renders, rebuilt, and made by each plan.

Knows which frames a row is made of and how long that took; not how good they are.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from nuwaxl.components import LongVideoComponents
from nuwaxl.devices import autocast, fast_dtype
from nuwaxl.evaluation.baselines import HierarchyTimeline, SequentialTimeline, planned_film
from nuwaxl.evaluation.pixels import resized, to_tensor, to_uint8
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.sampling import SamplingConfig
from nuwaxl.timeline import Timeline
from nuwaxl.toon import FRAME_SIZE, render_frames

ROWS = ("real", "autoencoder", "tree", "sequential", "hierarchy")
"""Renders; renders through the autoencoder; the keyframe tree; two plans of `baselines`."""

GENERATED = ("tree", "sequential", "hierarchy")


@dataclass(frozen=True)
class MadeFilm:
    """One film of one row."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    boundaries: tuple[int, ...]
    """First frame of each part that is decoded by itself: of the tree's for rows without a plan."""
    seconds: float
    """Wall-clock time on this machine, whatever else it does."""
    num_runs: int
    """Diffusion runs; 0 where nothing is generated."""
    critical_path: int
    """Runs that must follow one another, however many workers there are."""


def render_film(film: KnownFilm, size: int = FRAME_SIZE) -> UInt8[np.ndarray, "frames size size 3"]:
    """The true frames of a film.

    Args:
        film: what is known.
        size: height and width of the frames, in pixels.
    """
    times = [frame / film.fps for frame in range(film.num_frames)]
    return resized(render_frames(film.story, times), size)


def make_row(
    row: str,
    film: KnownFilm,
    *,
    segment_length: int,
    size: int,
    vae: TemporalAutoencoderKL | None = None,
    pipeline: LongVideoComponents | None = None,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> MadeFilm:
    """Make one film of a row.

    Args:
        row: one of `ROWS`.
        film: what it shall show.
        segment_length: most frames in a run.
        size: height and width of the frames, in pixels.
        vae: of the row 'autoencoder'.
        pipeline: of generated rows.
        sampling: of generated rows; None: the defaults with the pipeline's scheduler.
        seed: of generated rows' noise.
        batch_size: segments made together.

    Raises:
        ValueError: an unknown row, or one whose networks are not given.
    """
    timeline = plan_of(row, film.num_frames, segment_length)
    boundaries = tuple(window.frames[0] for window in timeline.windows())
    started = time.perf_counter()
    if row == "real":
        frames = render_film(film, size)
    elif row == "autoencoder":
        if vae is None:
            raise ValueError("`rows` has 'autoencoder', which needs a model or an autoencoder.")
        frames = _rebuild_windows(render_film(film, size), vae, timeline)
    else:
        if pipeline is None:
            raise ValueError(f"`rows` has {row!r}, which needs a model.")
        sampling = sampling or SamplingConfig(scheduler=pipeline.scheduler_name())
        made = planned_film(
            pipeline, timeline, film, sampling=sampling, seed=seed, batch_size=batch_size
        )
        with made:
            frames = np.stack(list(made.frames()))
    seconds = time.perf_counter() - started
    is_generated = row in GENERATED
    return MadeFilm(
        frames,
        boundaries,
        seconds,
        timeline.num_segments if is_generated else 0,
        critical_path(timeline) if is_generated else 0,
    )


def plan_of(row: str, num_frames: int, segment_length: int) -> Timeline:
    """The plan by which a row's films are made; the tree for rows that need none.

    Args:
        row: one of `ROWS`.
        num_frames: of the film.
        segment_length: most frames in a run; a quarter of it is given on in sequential plans.

    Raises:
        ValueError: an unknown row.
    """
    if row not in ROWS:
        raise ValueError(f"`rows` must be among {', '.join(ROWS)}, got {row!r}.")
    overlap = max(1, segment_length // 4)
    if row == "sequential":
        return SequentialTimeline(num_frames, segment_length, overlap=overlap)
    if row == "hierarchy":
        return HierarchyTimeline(num_frames, segment_length, overlap=overlap)
    return Timeline(num_frames, segment_length)


def critical_path(timeline: Timeline) -> int:
    """Runs that must follow one another: what is left of the time with workers without number.

    Args:
        timeline: any plan.
    """
    depths: dict[tuple[int, int], int] = {}
    for segment in timeline.display_order():
        sources = [timeline.source(segment, frame) for frame in segment.given_frames]
        before = [depths[each.level, each.index] for each in sources if each is not None]
        depths[segment.level, segment.index] = 1 + max(before, default=0)
    return max(depths.values(), default=0)


@torch.no_grad()
def _rebuild_windows(
    frames: UInt8[np.ndarray, "frames height width 3"],
    vae: TemporalAutoencoderKL,
    timeline: Timeline,
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Encode frame by frame and decode window by window, as the frames of a film are."""
    device = next(vae.parameters()).device
    pieces: list[np.ndarray] = []
    with autocast(device, fast_dtype(device)):
        for window in timeline.windows():
            pixels = to_tensor(frames[list(window.frames)])[None].to(device)
            decoded = vae.decode_latents(vae.encode_latents(pixels))[0]
            pieces.append(to_uint8(decoded[: window.keep]))
    return np.concatenate(pieces)
