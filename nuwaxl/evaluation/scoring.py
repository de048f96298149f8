"""One row of the table: what all its films score together.

Knows films, what is known of them and what the probe reads; not how they were made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from nuwaxl.evaluation import metrics
from nuwaxl.evaluation.distances import (
    avg_fd,
    block_fd,
    block_fd_by_position,
    frechet_distance,
    kernel_distance,
)
from nuwaxl.evaluation.pixels import resized
from nuwaxl.evaluation.probe import Probe, Reading
from nuwaxl.evaluation.rows import MadeFilm
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.toon import FRAME_SIZE

NUM_PARTS = 16
"""Equal parts of a film over which accuracy is drawn."""


@dataclass(frozen=True)
class Score:
    """What the films of one row and one length score. None: nothing there to measure."""

    accuracy: dict[str, float | None]
    """Share of frames that show what was asked for, by attribute and 'all' together."""
    avg_fd: float
    """Frechet distance of all frames' features to those of other real films."""
    kid: float
    """Kernel distance of the same."""
    block_fd: float | None
    """Frechet distance of blocks of 16 frames."""
    block_fd_by_position: list[float | None]
    """The same for each quarter of the films."""
    seam_ratio: float | None
    """Change across the boundaries of segments against the change near them; 1 is none seen."""
    flicker: float | None
    """Second difference of the background in time, grey levels."""
    motion_error: float | None
    """Error of the background's scroll, px/s."""
    drift_accuracy: float | None
    """Accuracy of 'all' in the first 15 % of frames less that in the last 15 %."""
    drift_fd: float
    """Frechet distance of the last 15 % of frames less that of the first 15 %."""
    identity_kept: float | None
    """Share of frames with the actor that most frames of their scene show."""
    cut_error: float | None
    """Frames between a cut and where it should be."""
    accuracy_over_time: list[float | None]
    """Accuracy of 'all' in equal parts of the films."""
    seconds_per_frame: float
    num_runs: int
    """Diffusion runs of one film."""
    critical_path: int
    """Runs of one film that must follow one another."""

    def flat(self) -> dict[str, Any]:
        """All single numbers by name, such as 'accuracy.actor', for tables."""
        content = {
            name: value
            for name, value in asdict(self).items()
            if not isinstance(value, list | dict)
        }
        return {f"accuracy.{name}": value for name, value in self.accuracy.items()} | content


@dataclass(frozen=True)
class FilmScore:
    """What one film scores by itself."""

    reading: Reading
    right: Mapping[str, Float[np.ndarray, " frames"]]
    single: Mapping[str, float | None]


def score_row(
    made: Sequence[MadeFilm],
    known: Sequence[KnownFilm],
    probe: Probe,
    reference: Sequence[Float[np.ndarray, "_ dim"]],
) -> Score:
    """Measure the films of a row.

    Args:
        made: one film for each story.
        known: the stories, all of one length.
        probe: reads the frames.
        reference: the probe's features of other real films.
    """
    films = [_score_film(film, story, probe) for film, story in zip(made, known, strict=True)]
    features = [film.reading.features for film in films]
    right = {name: np.concatenate([film.right[name] for film in films]) for name in films[0].right}
    everything = [metrics.all_right(film.right) for film in films]
    length = max(2, round(metrics.DRIFT_SHARE * known[0].num_frames))
    real = np.concatenate(list(reference))
    first, last = (
        frechet_distance(np.concatenate([film[part] for film in features]), real)
        for part in (slice(length), slice(-length, None))
    )
    return Score(
        accuracy=metrics.caption_accuracy(right),
        avg_fd=avg_fd(features, reference),
        kid=kernel_distance(thinned(np.concatenate(features)), thinned(real)),
        block_fd=block_fd(features, reference),
        block_fd_by_position=block_fd_by_position(features, reference),
        **{name: mean_of([film.single[name] for film in films]) for name in films[0].single},
        drift_accuracy=mean_of([metrics.drift(values) for values in everything]),
        drift_fd=last - first,
        accuracy_over_time=_over_time(everything),
        seconds_per_frame=sum(film.seconds for film in made)
        / sum(len(film.frames) for film in made),
        num_runs=made[0].num_runs,
        critical_path=made[0].critical_path,
    )


def thinned(
    features: Float[np.ndarray, "samples dim"], at_most: int = 2048
) -> Float[np.ndarray, "fewer dim"]:
    """Every n-th of many samples: the kernel distance grows with the square of their number.

    Args:
        features: in any order.
        at_most: samples to keep.
    """
    return features[:: -(-len(features) // at_most)]


def _score_film(made: MadeFilm, known: KnownFilm, probe: Probe) -> FilmScore:
    frames = resized(made.frames, FRAME_SIZE)
    inside = known.pairs_inside()
    reading = probe.read(frames, known.scenes)
    errors = metrics.cut_errors(reading.features, known.cuts)
    visible = [
        error for cut, error in zip(known.cuts, errors, strict=True) if cut in known.visible_cuts
    ]
    return FilmScore(
        reading,
        metrics.right_per_frame(reading.classes, known.labels),
        {
            "seam_ratio": metrics.seam_ratio(frames, made.boundaries, inside),
            "flicker": metrics.flicker(frames, inside, known.actor),
            "motion_error": metrics.motion_error(
                frames, known.speeds, known.scenes, known.fps, known.actor
            ),
            "identity_kept": metrics.identity_kept(reading.classes["actor"], known.scenes),
            "cut_error": float(np.mean(visible)) if visible else None,
        },
    )


def _over_time(films: Sequence[np.ndarray]) -> list[float | None]:
    parts = []
    for number in range(NUM_PARTS):
        values = []
        for film in films:
            edges = np.linspace(0, len(film), NUM_PARTS + 1).round().astype(int)
            values.append(film[edges[number] : edges[number + 1]])
        joined = np.concatenate(values)
        joined = joined[~np.isnan(joined)]
        parts.append(float(joined.mean()) if len(joined) else None)
    return parts


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of what was measured; None when nothing was.

    Args:
        values: one per film.
    """
    seen = [value for value in values if value is not None]
    return float(np.mean(seen)) if seen else None
