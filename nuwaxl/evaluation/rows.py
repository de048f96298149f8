"""The rows of an evaluation: the same stories as real renders, rebuilt, and made by each plan.

Knows which frames a row is made of and how long that took; not how good they are.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.baselines import HierarchyTimeline, SequentialTimeline, planned_film
from nuwaxl.evaluation.pixels import resized, to_tensor, to_uint8
from nuwaxl.evaluation.settings import ROWS
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.parts.components import LongVideoComponents
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.toon import FRAME_SIZE
from nuwaxl.toon.render import render
from nuwaxl.tree.timeline import Timeline

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass
class MadeFilm:
    """One film of one row, made while it is looked at: iterate over it once."""

    frames: Iterator[Picture]
    """In display order."""
    boundaries: tuple[int, ...]
    """First frame of each part that is decoded by itself: of the tree's for rows without a plan."""
    num_runs: int = 0
    """Diffusion runs; 0 where nothing is generated."""
    critical_path: int = 0
    """Runs that must follow one another, however many workers there are."""
    seconds: float = 0.0
    """Wall-clock time spent on its frames so far, whatever else this machine does."""

    def __iter__(self) -> Iterator[Picture]:
        """The frames, the time that they take being counted."""
        while True:
            started = time.perf_counter()
            frame = next(self.frames, None)
            self.seconds += time.perf_counter() - started
            if frame is None:
                return
            yield frame


def render_film(film: KnownFilm, size: int = FRAME_SIZE) -> Iterator[Picture]:
    """The true frames of a film, one by one.

    Args:
        film: what is known.
        size: height and width of the frames, in pixels.
    """
    for frame in range(film.num_frames):
        yield render_frame(film, frame, size)


def render_frame(film: KnownFilm, frame: int, size: int = FRAME_SIZE) -> Picture:
    """One true frame.

    Args:
        film: what is known.
        frame: its number.
        size: height and width, in pixels.
    """
    return resized(render(film.states[frame])[None], size)[0]


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
    """One film of a row; nothing is made before it is looked at.

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
    if row == "real":
        return MadeFilm(render_film(film, size), boundaries)
    if row == "autoencoder":
        if vae is None:
            raise ValueError("`rows` has 'autoencoder', which needs a model or an autoencoder.")
        return MadeFilm(_rebuild_windows(film, size, vae, timeline), boundaries)
    if pipeline is None:
        raise ValueError(f"`rows` has {row!r}, which needs a model.")
    sampling = sampling or SamplingConfig(scheduler=pipeline.scheduler_name())
    pinned = real_keyframes(film, timeline, pipeline, size) if row == "local" else None
    made = planned_film(
        pipeline,
        timeline,
        film,
        sampling=sampling,
        seed=seed,
        batch_size=batch_size,
        pinned=pinned,
    )
    return MadeFilm(made.frames(), boundaries, timeline.num_segments, critical_path(timeline))


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
    tree = Timeline(num_frames, segment_length)
    if row == "local":
        # The same tree, with nothing left to make at level 0.
        return Timeline(num_frames, segment_length, tree.num_levels, pinned=tree.keyframes)
    return tree


def real_keyframes(
    film: KnownFilm, timeline: Timeline, pipeline: LongVideoComponents, size: int
) -> dict[int, Float[Tensor, "channels height width"]]:
    """Latents of the true frames that a timeline has pinned.

    Args:
        film: what is known.
        timeline: whose pinned frames they are.
        pipeline: encodes them.
        size: height and width of the frames, in pixels.
    """
    return {
        frame: pipeline.encode_picture(render_frame(film, frame, size)) for frame in timeline.pinned
    }


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


def _rebuild_windows(
    film: KnownFilm, size: int, vae: TemporalAutoencoderKL, timeline: Timeline
) -> Iterator[Picture]:
    """Encode frame by frame and decode window by window, as the frames of a film are."""
    device = next(vae.parameters()).device
    for window in timeline.windows():
        frames = np.stack([render_frame(film, frame, size) for frame in window.frames])
        with torch.no_grad(), autocast(device, fast_dtype(device)):
            pixels = to_tensor(frames)[None].to(device)
            decoded = vae.decode_latents(vae.encode_latents(pixels))[0]
        yield from to_uint8(decoded[: window.keep])
