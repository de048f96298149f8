"""One row of the table: what all its films score together.

Knows what films were measured to be; not their pixels nor how they were made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nuwaxl.evaluation import metrics
from nuwaxl.evaluation.distances import (
    Distances,
    distance_by_position,
    distances,
    pooled_distance,
)
from nuwaxl.evaluation.features import FilmFeatures
from nuwaxl.evaluation.measuring import FilmMeasures

NUM_PARTS = 16
"""Equal parts of a film over which accuracy is drawn."""


@dataclass(frozen=True)
class Effort:
    """What a row's films cost."""

    seconds_per_frame: float
    """Wall-clock time on this machine, whatever else it does."""
    num_runs: int
    """Diffusion runs of one film; 0 where nothing is generated."""
    critical_path: int
    """Runs of one film that must follow one another, however many workers there are."""


@dataclass(frozen=True)
class Score:
    """What the films of one row and one length score. None: nothing there to measure."""

    accuracy: dict[str, float | None]
    """Share of frames that show what was asked for, by attribute and 'all' together."""
    accuracy_over_time: dict[str, list[float | None]]
    """The same in equal parts of the films."""
    distances: dict[str, Distances]
    """From real films, by space of features."""
    fid: float | None
    """Frechet distance of all frames in Inception's space."""
    fvd: float | None
    """Frechet distance of all blocks of 16 frames in the space of the user's video network."""
    fvd_by_position: list[float | None]
    """The same for each quarter of the films."""
    clip_score: float | None
    """Mean agreement of frames and prompts, 0 to 100."""
    seam_ratio: float | None
    """Change across the boundaries of segments against the change near them; 1 is none seen."""
    flicker: float | None
    """Second difference of the background in time, grey levels."""
    motion_error: float | None
    """Error of the background's scroll, px/s."""
    drift: dict[str, float | None]
    """Accuracy in the first 15 % of frames less that in the last 15 %, by attribute and 'all'."""
    identity_kept: float | None
    """Share of frames with the actor that most frames of their scene show."""
    cut_error: float | None
    """Frames between a cut and where it should be."""
    effort: Effort

    def flat(self) -> dict[str, Any]:
        """All single numbers by name, such as 'accuracy.actor' or 'efficientnet.kid'."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "distances":
                for space, numbers in value.items():
                    flat |= {
                        f"{space}.{key}": number
                        for key, number in numbers.items()
                        if not isinstance(number, list)
                    }
            elif name == "effort":
                flat |= value
            elif isinstance(value, dict):
                flat |= {
                    f"{name}.{key}": number
                    for key, number in value.items()
                    if not isinstance(number, list)
                }
            elif not isinstance(value, list):
                flat[name] = value
        return flat


def score_row(
    films: Sequence[FilmMeasures], reference: Sequence[FilmFeatures], effort: Effort
) -> Score:
    """The score of a row.

    Args:
        films: one for each story, all of one length.
        reference: of real films.
        effort: what they cost.
    """
    everything = [{**film.right, "all": metrics.all_right(film.right)} for film in films]
    joined = {name: np.concatenate([film.right[name] for film in films]) for name in films[0].right}
    spaces = {
        space: (
            [film.features.frames[space] for film in films],
            [film.frames[space] for film in reference],
        )
        for space in films[0].features.frames
    }
    inception = spaces.pop("inception", None)
    blocks, real_blocks = (
        [film.blocks for film in side if film.blocks is not None]
        for side in ([film.features for film in films], reference)
    )
    has_blocks = bool(blocks and real_blocks)
    return Score(
        accuracy=metrics.caption_accuracy(joined),
        accuracy_over_time=_over_time(everything),
        distances={
            space: distances(*sides, drift_share=metrics.DRIFT_SHARE)
            for space, sides in spaces.items()
        },
        fid=None if inception is None else pooled_distance(*inception),
        fvd=pooled_distance(blocks, real_blocks) if has_blocks else None,
        fvd_by_position=distance_by_position(blocks, real_blocks) if has_blocks else [],
        drift={
            name: metrics.mean_of([metrics.drift(right[name]) for right in everything])
            for name in everything[0]
        },
        **{
            name: metrics.mean_of([film.single[name] for film in films]) for name in films[0].single
        },
        effort=effort,
    )


def _over_time(films: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float | None]]:
    parts: dict[str, list[float | None]] = {name: [] for name in films[0]}
    for number in range(NUM_PARTS):
        for name, means in parts.items():
            values = []
            for film in films:
                edges = np.linspace(0, len(film[name]), NUM_PARTS + 1).round().astype(int)
                values.append(film[name][edges[number] : edges[number + 1]])
            means.append(metrics.mean_of(np.concatenate(values)))
    return parts
