"""The evaluation: sampled stories, each row's films of them, and what they score.

Knows the order of the work; the parts are elsewhere, and the networks are handed in.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nuwaxl.components import LongVideoComponents
from nuwaxl.evaluation.probe import FPS, Probe
from nuwaxl.evaluation.rows import GENERATED, ROWS, MadeFilm, make_row, render_film
from nuwaxl.evaluation.scoring import Score, score_row
from nuwaxl.evaluation.stories import KnownFilm, sample_films
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.sampling import SamplingConfig
from nuwaxl.toon import FRAME_SIZE

STRIP_FRAMES = 12

OnRow = Callable[[str, int, Score], None]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on what."""

    model: str | None = None
    """Folder of a checkpoint; None: the bundled one."""
    vae: str | None = None
    """Folder of an autoencoder to use instead of the model's; alone, it needs no model."""
    probe: str = "out/probe"
    """Folder of the probe; trained there, in minutes, when it is not there."""
    stories: int = 2
    """Films of every length in every row."""
    lengths: tuple[int, ...] = (226, 1024)
    """Frames of the films."""
    rows: tuple[str, ...] = ("real", "autoencoder", "tree", "sequential")
    held_out: bool = False
    """Only combinations of actor, background and time of day that no network is trained on."""
    paraphrase: bool = False
    """Prompts in random words instead of the plainest. They may leave things unsaid, and what is
    unsaid is still counted as if it had been asked for."""
    actors: tuple[str, ...] = ()
    """Only these; empty: those of the model's `world.json`, or all."""
    backgrounds: tuple[str, ...] = ()
    """Only these; empty: those of the model's `world.json`, or all."""
    output: str = "out/evaluation"
    """Folder for `report.json` and `report.html`."""
    seed: int = 0
    batch_size: int = 8
    """Segments denoised together where the plan allows any."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How a segment is denoised."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.stories < 1:
            raise ValueError(f"`stories` must be at least 1, got {self.stories}.")
        if not self.lengths or min(self.lengths) < 16:
            raise ValueError(
                f"`lengths` must be numbers of frames from 16 up, got {list(self.lengths)}."
            )
        if not self.rows or set(self.rows) - set(ROWS):
            raise ValueError(f"`rows` must be among {', '.join(ROWS)}, got {list(self.rows)}.")

    @property
    def needs_model(self) -> bool:
        """Whether a row is generated, or needs the model's autoencoder."""
        return bool(set(self.rows) & set(GENERATED)) or (
            "autoencoder" in self.rows and self.vae is None
        )


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

    def to_json(self) -> str:
        """The report for machines: everything but the pictures."""
        content = {
            "config": asdict(self.config),
            "probe": self.probe_facts,
            "rows": [
                {"row": line.row, "num_frames": line.num_frames, **asdict(line.score)}
                for line in self.rows
            ],
        }
        return json.dumps(content, indent=1) + "\n"


def evaluate(
    config: EvaluationConfig,
    probe: Probe,
    *,
    probe_facts: dict[str, object] | None = None,
    pipeline: LongVideoComponents | None = None,
    vae: TemporalAutoencoderKL | None = None,
    on_row: OnRow | None = None,
) -> Evaluation:
    """Measure every row at every length.

    Args:
        config: what to measure; its folders are not read here.
        probe: reads the frames.
        probe_facts: what is known of it, for the report; see `Probe.facts`.
        pipeline: makes the generated rows.
        vae: of the row 'autoencoder'; None: the pipeline's.
        on_row: called with row, length and score as soon as there is one.

    Raises:
        ValueError: a row whose networks are missing, a name that the world does not know, or a
            model of another frame rate than the probe's.
    """
    if pipeline is not None and pipeline.config["fps"] != FPS:
        raise ValueError(
            f"`model` must make {FPS:g} frames per second, which the probe reads, got"
            f" {pipeline.config['fps']:g}."
        )
    if vae is None and pipeline is not None:
        vae = pipeline.vae
    lines: list[RowResult] = []
    prompts: dict[int, list[str]] = {}
    for num_frames in config.lengths:
        films = _films(config, num_frames, seed=config.seed)
        # Other stories of the same kind and number: the row 'real' shows how far apart two such
        # samples are by chance.
        reference = [
            probe.read_frames(render_film(film))[0].numpy()
            for film in _films(config, num_frames, seed=config.seed + 1_000_003)
        ]
        shown = strip_frames(num_frames)
        prompts[num_frames] = list(films[0].storyline.prompts_at(f / FPS for f in shown))
        for row in config.rows:
            made = list(_make(config, row, films, pipeline, vae))
            score = score_row(made, films, probe, reference)
            lines.append(RowResult(row, num_frames, score, made[0].frames[shown]))
            if on_row is not None:
                on_row(row, num_frames, score)
    return Evaluation(config, probe_facts or {}, tuple(lines), prompts)


def strip_frames(num_frames: int) -> list[int]:
    """Numbers of the frames that stand for a film in the report.

    Args:
        num_frames: of the film.
    """
    return np.linspace(0, num_frames - 1, STRIP_FRAMES).round().astype(int).tolist()


def read_world(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Actors and backgrounds that a model was trained on; empty when its folder does not say.

    Args:
        folder: of the checkpoint; its `world.json` is {"actors": [...], "backgrounds": [...]}.

    Raises:
        ValueError: the file cannot be read.
    """
    path = folder / "world.json"
    if not path.is_file():
        return (), ()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(content.get("actors", ())), tuple(content.get("backgrounds", ()))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold actors and backgrounds as lists of names: {error}."
        ) from error


def _films(config: EvaluationConfig, num_frames: int, *, seed: int) -> list[KnownFilm]:
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


def _make(
    config: EvaluationConfig,
    row: str,
    films: list[KnownFilm],
    pipeline: LongVideoComponents | None,
    vae: TemporalAutoencoderKL | None,
) -> Iterator[MadeFilm]:
    for number, film in enumerate(films):
        yield make_row(
            row,
            film,
            segment_length=16 if pipeline is None else pipeline.config["segment_length"],
            size=FRAME_SIZE if pipeline is None else pipeline.config["height"],
            vae=vae,
            pipeline=pipeline,
            sampling=config.sampling,
            seed=config.seed + number,
            batch_size=config.batch_size,
        )
