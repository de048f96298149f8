"""The evaluation: sampled stories, each row's films of them, and what they score.

Knows the order of the work; the parts are elsewhere, and the networks are handed in.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import UInt8

from nuwaxl.evaluation.features import Readers, film_features
from nuwaxl.evaluation.measuring import FilmMeasures, measure_film
from nuwaxl.evaluation.probe import FPS
from nuwaxl.evaluation.rows import make_row, render_film
from nuwaxl.evaluation.scoring import Effort, Score, score_row
from nuwaxl.evaluation.settings import EvaluationConfig
from nuwaxl.evaluation.stories import KnownFilm, sample_films
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.parts.components import LongVideoComponents
from nuwaxl.toon import FRAME_SIZE

STRIP_FRAMES = 12

OnRow = Callable[[str, int, Score], None]
OnFilm = Callable[[str, int, int], None]

REFERENCE = "reference"
"""What a film is called that others are compared with."""


@dataclass(frozen=True)
class RowResult:
    """One line of the report: a row at one length."""

    row: str
    num_frames: int
    score: Score
    strip: UInt8[np.ndarray, "frames height width 3"]
    """Frames of the first film at even spacing."""


@dataclass(frozen=True)
class Evaluation:
    """All that was measured."""

    config: EvaluationConfig
    probe_facts: dict[str, object]
    """The probe's own accuracy, and how it was trained."""
    rows: tuple[RowResult, ...]
    prompts: dict[int, list[str]]
    """Prompts of the first film by length, at the frames of the strips."""
    video_network: str | None = None
    """Which network gives FVD its features."""

    def to_json(self) -> str:
        """The report for machines: everything but the pictures."""
        content = {
            "config": asdict(self.config),
            "probe": self.probe_facts,
            "video_network": self.video_network,
            "rows": [
                {"row": line.row, "num_frames": line.num_frames, **asdict(line.score)}
                for line in self.rows
            ],
        }
        return json.dumps(content, indent=1) + "\n"


def evaluate(
    config: EvaluationConfig,
    readers: Readers,
    *,
    probe_facts: dict[str, object] | None = None,
    pipeline: LongVideoComponents | None = None,
    vae: TemporalAutoencoderKL | None = None,
    on_row: OnRow | None = None,
    on_film: OnFilm | None = None,
) -> Evaluation:
    """Measure every row at every length.

    Films are read as they are made, scene by scene; kept of them are a few numbers per frame.

    Args:
        config: what to measure; its folders are not read here.
        readers: networks that look at the films.
        probe_facts: what is known of the probe, for the report; see `Probe.facts`.
        pipeline: makes the generated rows.
        vae: of the row 'autoencoder'; None: the pipeline's.
        on_row: called with row, length and score as soon as there is one.
        on_film: called with row, length and number as each film begins.

    Raises:
        ValueError: a row whose networks are missing, a name that the world does not know, or a
            model of another frame rate than the probe's.
    """
    if pipeline is not None and pipeline.config["fps"] != FPS:
        raise ValueError(
            f"`model` must make {FPS:g} frames per second, which the probe reads, got"
            f" {pipeline.config['fps']:g}."
        )
    on_film = on_film or (lambda row, num_frames, number: None)
    size = FRAME_SIZE if pipeline is None else pipeline.config["height"]
    lines: list[RowResult] = []
    prompts: dict[int, list[str]] = {}
    for num_frames in config.lengths:
        films = films_of(config, num_frames, seed=config.seed)
        # The true films of the same stories: of others, a few would differ more in what they show
        # than in how well they show it.
        reference = []
        for number, film in enumerate(films):
            on_film(REFERENCE, num_frames, number)
            reference.append(film_features(render_film(film, size), readers, film.scenes))
        shown = strip_frames(num_frames)
        prompts[num_frames] = list(films[0].storyline.prompts_at(f / FPS for f in shown))
        for row in config.rows:
            measured, effort = [], Effort(0.0, 0, 0)
            for number, film in enumerate(films):
                on_film(row, num_frames, number)
                one, cost = measure_row(
                    config, row, film, number, readers, pipeline, vae, shown=shown
                )
                measured.append(one)
                mean = effort.seconds_per_frame + cost.seconds_per_frame / len(films)
                effort = Effort(mean, cost.num_runs, cost.critical_path)
            score = score_row(measured, reference, effort)
            lines.append(RowResult(row, num_frames, score, measured[0].shown))
            if on_row is not None:
                on_row(row, num_frames, score)
    network = None if readers.video is None else readers.video.name
    return Evaluation(config, probe_facts or {}, tuple(lines), prompts, network)


def measure_row(
    config: EvaluationConfig,
    row: str,
    film: KnownFilm,
    number: int,
    readers: Readers,
    pipeline: LongVideoComponents | None,
    vae: TemporalAutoencoderKL | None,
    *,
    shown: Sequence[int] = (),
) -> tuple[FilmMeasures, Effort]:
    """Make one film of a row and measure it while it is made.

    Args:
        config: seed, sampling and batch size.
        row: one of `ROWS`.
        film: what it shall show.
        number: of the film in its row.
        readers: networks that look at it.
        pipeline: makes generated rows.
        vae: of the row 'autoencoder'; None: the pipeline's.
        shown: frames to keep.
    """
    made = make_row(
        row,
        film,
        segment_length=16 if pipeline is None else pipeline.config["segment_length"],
        size=FRAME_SIZE if pipeline is None else pipeline.config["height"],
        vae=vae or (None if pipeline is None else pipeline.vae),
        pipeline=pipeline,
        sampling=config.sampling,
        seed=config.seed + number,
        batch_size=config.batch_size,
    )
    measured = measure_film(made, film, readers, boundaries=made.boundaries, shown=shown)
    return measured, Effort(made.seconds / film.num_frames, made.num_runs, made.critical_path)


def strip_frames(num_frames: int) -> list[int]:
    """Numbers of the frames that stand for a film in the report.

    Args:
        num_frames: of the film.
    """
    return np.linspace(0, num_frames - 1, STRIP_FRAMES).round().astype(int).tolist()


def films_of(config: EvaluationConfig, num_frames: int, *, seed: int) -> list[KnownFilm]:
    """The films of one length that a configuration asks for.

    Args:
        config: how many and of what.
        num_frames: of each.
        seed: source of all chance.
    """
    return sample_films(
        config.stories,
        num_frames,
        seed=seed,
        fps=FPS,
        paraphrase=config.paraphrase,
        actor_names=config.actors or None,
        background_names=config.backgrounds or None,
        held_out=config.held_out,
    )
