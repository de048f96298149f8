"""One film read as it goes by, scene by scene: what is kept of it are numbers, not pixels.

Knows a film's frames and what is known of them; not how it was made nor what others score.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float, Int, UInt8

from nuwaxl.evaluation import metrics
from nuwaxl.evaluation.features import FeatureRecorder, FilmFeatures, Readers
from nuwaxl.evaluation.pixels import resized
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.toon import FRAME_SIZE


@dataclass(frozen=True)
class FilmMeasures:
    """What one film scores by itself, and what distances are taken of."""

    features: FilmFeatures
    classes: Mapping[str, Int[np.ndarray, " frames"]]
    """As the probe has read them."""
    right: Mapping[str, Float[np.ndarray, " frames"]]
    """Of `metrics.right_per_frame`."""
    single: Mapping[str, float | None]
    """Single numbers by name."""
    shown: UInt8[np.ndarray, "some height width 3"]
    """The frames that were asked for, to be seen."""


def measure_film(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    known: KnownFilm,
    readers: Readers,
    *,
    boundaries: Sequence[int] = (),
    shown: Sequence[int] = (),
) -> FilmMeasures:
    """Read a film in one pass; never more than one scene of it is held.

    Args:
        frames: in display order.
        known: what the film should show.
        readers: networks that look at it.
        boundaries: first frame of every part that was decoded by itself.
        shown: numbers of the frames to keep, ascending.

    Raises:
        ValueError: there are fewer frames than are known of.
    """
    recorder = FeatureRecorder(readers)
    series: dict[str, list[np.ndarray]] = {}
    kept, last = [], None
    stream = iter(frames)
    for first, stop in known.scenes:
        scene = list(islice(stream, stop - first))
        if len(scene) < stop - first:
            raise ValueError(
                f"`frames` must be {known.num_frames}, as the story has, got {first + len(scene)}."
            )
        kept += [scene[frame - first] for frame in shown if first <= frame < stop]
        pixels = resized(np.stack(scene), FRAME_SIZE)
        reading = readers.probe.read(pixels)
        recorder.add(pixels, reading.features)
        joined = pixels if last is None else np.concatenate([last, pixels])
        last = pixels[-1:]
        actor = known.actor[first:stop]
        measured = {
            "change": metrics.frame_change(joined),
            "flicker": metrics.flicker(pixels, actor),
            "motion_error": metrics.motion_error(
                pixels, known.speeds[first:stop], known.fps, actor
            ),
            **{f"class.{name}": numbers for name, numbers in reading.classes.items()},
        }
        if readers.clip is not None:
            prompts = list(known.storyline.prompts_at(f / known.fps for f in range(first, stop)))
            measured["clip_score"] = readers.clip.agreement(pixels, prompts)
        for name, values in measured.items():
            series.setdefault(name, []).append(values)
    whole = {name: np.concatenate(parts) for name, parts in series.items()}
    return _finish(whole, recorder.finish(), known, boundaries, np.stack(kept) if kept else _NONE)


_NONE = np.zeros((0, 1, 1, 3), np.uint8)


def _finish(
    series: Mapping[str, np.ndarray],
    features: FilmFeatures,
    known: KnownFilm,
    boundaries: Sequence[int],
    shown: np.ndarray,
) -> FilmMeasures:
    """What needs the whole film: cuts, seams, the actor of a scene."""
    classes = {
        name.removeprefix("class."): values
        for name, values in series.items()
        if name.startswith("class.")
    }
    errors = metrics.cut_errors(features.frames["probe"], known.cuts)
    visible = [
        error for cut, error in zip(known.cuts, errors, strict=True) if cut in known.visible_cuts
    ]
    single = {
        "seam_ratio": metrics.seam_ratio(series["change"], boundaries, known.pairs_inside()),
        "flicker": metrics.mean_of(series["flicker"]),
        "motion_error": metrics.mean_of(series["motion_error"]),
        "identity_kept": metrics.identity_kept(classes["actor"], known.scenes),
        "cut_error": metrics.mean_of(visible),
        "clip_score": metrics.mean_of(series.get("clip_score", np.array([]))),
    }
    right = metrics.right_per_frame(classes, known.labels)
    return FilmMeasures(features, classes, right, single, shown)
