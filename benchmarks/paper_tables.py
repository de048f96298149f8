"""The paper's tables on the toon world: does its ordering hold here?

python -m benchmarks.paper_tables --tables 1,2a,2b,2c,2d,latents --minutes-per-row 6

Table 1 takes the bundled model; the others train small networks at one budget each (see
`paper_networks`). Every row is kept in the folder of `--work`: run the command again, and only what
is missing is done. Table 2c reads depth as we do: 1 is a chain of runs, 2 a chain of keyframes with
what lies between them, 3 the tree.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.machine import describe, quiet
from benchmarks.paper_networks import (
    INJECTIONS,
    VAES,
    Budget,
    Workshop,
    claim_folder,
    small_world,
)
from benchmarks.paper_numbers import AVG_FD, BLOCK_FD, LENGTHS, SECONDS, as_markdown, verdicts
from nuwaxl.denoising.denoiser import SegmentDenoiser
from nuwaxl.evaluation.evaluate import films_of, measure_row
from nuwaxl.evaluation.features import FilmFeatures, Readers, film_features, load_readers
from nuwaxl.evaluation.measuring import measure_film
from nuwaxl.evaluation.rows import MadeFilm, critical_path, render_film
from nuwaxl.evaluation.scoring import Effort, Score, score_row
from nuwaxl.evaluation.settings import EvaluationConfig, check_sources
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.executors.local import LocalExecutor
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.tensors.devices import autocast
from nuwaxl.tree.coarse_to_fine import SegmentJob

TABLES = ("1", "2a", "2b", "2c", "2d", "latents")
MIDDLE = 226
"""Frames of the films of tables without a length of their own."""

DEPTHS = {"depth 1": "sequential", "depth 2": "hierarchy", "depth 3": "tree"}
SEGMENT_LENGTHS = (8, 16, 32)


class ReencodingModel:
    """As the paper passes frames on: given ones are drawn as pictures and encoded again.

    Args:
        model: what makes the segments.
    """

    def __init__(self, model: Any, vae: TemporalAutoencoderKL) -> None:
        assert isinstance(model, SegmentDenoiser)
        self.model = model
        self.vae = vae
        self.fingerprint = model.fingerprint + " reencoding"
        self.latent_shape = model.latent_shape

    @torch.no_grad()
    def generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """The segments of `jobs`, conditioned on what comes back from 8-bit pixels."""
        given = torch.tensor([job.segment.given for job in jobs])
        seen = given_latents.clone()
        if given.any():
            with autocast(self.model.device, self.model.dtype):
                frames = given_latents[given].unsqueeze(1).to(self.model.device)
                pixels = self.vae.decode_latents(frames).float().clamp(-1, 1)
                eight_bit = (pixels * 127.5 + 127.5).round() / 127.5 - 1
                seen[given] = self.vae.encode_latents(eight_bit)[:, 0].float().cpu()
        return self.model.generate(jobs, seen)


class Measurer:
    """Scores of rows against the true films of the same stories, as `nuwaxl evaluate` has them.

    Args:
        config: which films.
        readers: networks that look at them.
    """

    def __init__(self, config: EvaluationConfig, readers: Readers) -> None:
        self.config = config
        self.readers = readers
        self.space = "efficientnet" if "efficientnet" in config.features else "probe"
        self._references: dict[int, list[FilmFeatures]] = {}

    def row(
        self,
        row: str,
        num_frames: int,
        *,
        pipeline: LongVideoPipeline | None = None,
        vae: TemporalAutoencoderKL | None = None,
        reencode: bool = False,
    ) -> dict[str, Any]:
        """Make and measure the films of one row.

        Args:
            row: of `nuwaxl.evaluation`.
            num_frames: of each film.
            pipeline: of generated rows.
            vae: of the row 'autoencoder'.
            reencode: condition on pixels encoded again.
        """
        measured, efforts = [], []
        for number, film in enumerate(films_of(self.config, num_frames, seed=self.config.seed)):
            if reencode:
                assert pipeline is not None
                made = self._reencoded(film, number, pipeline)
                measured.append(measure_film(made, film, self.readers, boundaries=made.boundaries))
                effort = Effort(made.seconds / num_frames, made.num_runs, made.critical_path)
            else:
                one, effort = measure_row(
                    self.config, row, film, number, self.readers, pipeline, vae
                )
                measured.append(one)
            efforts.append(effort)
        per_frame = sum(effort.seconds_per_frame for effort in efforts) / len(efforts)
        effort = Effort(per_frame, efforts[0].num_runs, efforts[0].critical_path)
        return self._numbers(score_row(measured, self._reference(num_frames), effort), num_frames)

    def _numbers(self, score: Score, num_frames: int) -> dict[str, Any]:
        distances, effort = score.distances[self.space], score.effort
        seconds = effort.seconds_per_frame * num_frames
        share = effort.critical_path / effort.num_runs if effort.num_runs else 0.0
        return {
            "num_frames": num_frames,
            AVG_FD: distances.avg_fd,
            BLOCK_FD: distances.block_fd,
            "right": score.accuracy["all"],
            "seam_ratio": score.seam_ratio,
            "flicker": score.flicker,
            "runs": effort.num_runs,
            "critical_path": effort.critical_path,
            "seconds_with_one_worker": seconds,
            SECONDS: seconds * share if effort.num_runs else None,
            "_score": score.flat(),
        }

    def _reference(self, num_frames: int) -> list[FilmFeatures]:
        if num_frames not in self._references:
            films = films_of(self.config, num_frames, seed=self.config.seed)
            self._references[num_frames] = [
                film_features(render_film(film), self.readers, film.scenes) for film in films
            ]
        return self._references[num_frames]

    def _reencoded(self, film: KnownFilm, number: int, pipeline: LongVideoPipeline) -> MadeFilm:
        size = self.config.batch_size
        made = pipeline.film(
            film.storyline,
            film.num_frames,
            fps=film.fps,
            sampling=self.config.sampling,
            seed=self.config.seed + number,
            batch_size=size,
            executor=lambda model: LocalExecutor(
                ReencodingModel(model, pipeline.vae), batch_size=size
            ),
        )
        timeline = made.timeline
        boundaries = tuple(window.frames[0] for window in timeline.windows())
        path = critical_path(timeline)
        return MadeFilm(made.frames(), boundaries, timeline.num_segments, path)


Row = tuple[str, str, Callable[[], dict[str, Any]]]
"""Table, row with its length, and what measures it."""


def rows_of(
    tables: Sequence[str], measurer: Measurer, shop: Workshop, model: str | None
) -> list[Row]:
    """All rows of some tables; nothing runs before a row's function is called.

    Args:
        tables: of `TABLES`.
        measurer: makes and scores the films.
        shop: trains the networks.
        model: folder of the checkpoint of tables 1 and 'latents'; None: the bundled one.
    """
    middle, lengths = (16, (16, 20)) if shop.budget.smoke else (MIDDLE, LENGTHS)
    rows: list[Row] = []

    def add(
        table: str,
        name: str,
        row: str,
        num_frames: int,
        pipeline: Callable[[], LongVideoPipeline] | None = None,
        vae: Callable[[], Path] | None = None,
        reencode: bool = False,
    ) -> None:
        def compute() -> dict[str, Any]:
            decoder = None if vae is None else TemporalAutoencoderKL.from_pretrained(vae()).eval()
            maker = None if pipeline is None else pipeline()
            return measurer.row(row, num_frames, pipeline=maker, vae=decoder, reencode=reencode)

        rows.append((table, name, compute))

    @cache
    def whole() -> LongVideoPipeline:
        if shop.budget.smoke:
            return shop.pipeline()
        pipeline = LongVideoPipeline.from_pretrained(model)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    for n in lengths:
        for row in ("real", "autoencoder", "tree", "sequential", "hierarchy"):
            add("1", row, row, n, whole)
        for name, row in DEPTHS.items():
            add("2c", name, row, n, shop.pipeline)
        for length in SEGMENT_LENGTHS:
            add("2d", f"L = {length}", "tree", n, partial(shop.pipeline, length=length))
    for variant in VAES:
        add("2a", variant, "autoencoder", middle, vae=partial(shop.vae, variant))
    for injection in INJECTIONS:
        # Between real keyframes, so that nothing but the local network differs or counts.
        add("2b", injection, "local", middle, partial(shop.pipeline, injection=injection))
    for n in (middle, lengths[-1]):
        add("latents", "stored latents", "tree", n, whole)
        add("latents", "pixels encoded again", "tree", n, whole, reencode=True)
    return sorted((row for row in rows if row[0] in tables), key=lambda row: TABLES.index(row[0]))


def measure(rows: Sequence[Row], folder: Path) -> list[dict[str, Any]]:
    """The rows' numbers; those that a file of the folder holds are not measured again.

    Args:
        rows: of `rows_of`.
        folder: one file for each row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for number, (table, row, compute) in enumerate(rows):
        same = sum(1 for other in rows[:number] if other[:2] == (table, row))
        path = folder / f"{table} {row} {same}.json".replace(" ", "_")
        if not path.is_file():
            print(f"table {table}: {row} ({number + 1} of {len(rows)} rows)", flush=True)
            began = datetime.datetime.now()
            result = {"table": table, "row": row, **compute()}
            result["_minutes"] = (datetime.datetime.now() - began).total_seconds() / 60
            path.with_suffix(".new").write_text(json.dumps(result, indent=1))
            path.with_suffix(".new").replace(path)
        results.append(json.loads(path.read_text()))
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, checked before anything is loaded."""
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_tables", description=summary)
    parser.add_argument("--tables", default=",".join(TABLES), help=f"of {', '.join(TABLES)}")
    parser.add_argument(
        "--minutes-per-row", type=float, default=6.0, help="training of one network on one core"
    )
    parser.add_argument("--strips", type=int, default=300, help="stories of each kind of strips")
    parser.add_argument("--stories", type=int, default=3, help="films of every row and length")
    parser.add_argument("--model", default=None, help="checkpoint of table 1; default: bundled")
    parser.add_argument("--probe", default="out/probe", help="folder of the probe")
    parser.add_argument("--work", default="out/paper_tables", help="keeps networks and rows")
    parser.add_argument("--output", default=None, help="JSON file; a .md is written beside it")
    parser.add_argument("--smoke", action="store_true", help="one step of everything, in seconds")
    options = parser.parse_args(arguments)
    options.tables = options.tables.split(",")
    if unknown := [table for table in options.tables if table not in TABLES]:
        parser.error(f"--tables must be among {', '.join(TABLES)}, got {unknown[0]!r}")
    if options.minutes_per_row <= 0 or min(options.strips, options.stories) < 1:
        parser.error("--minutes-per-row, --strips and --stories must be above 0")
    if not options.smoke and not (Path(options.probe) / "probe.json").is_file():
        parser.error(f"--probe must be a folder with a probe, got {options.probe!r}: `nuwaxl"
                     " evaluate` trains one")  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    quiet()
    work = Path(options.work)
    budget = Budget(options.minutes_per_row, options.strips, options.smoke)
    config = small_world(budget, work, options.probe, options.stories, model=options.model)
    try:
        check_sources(config)
        claim_folder(work, {**asdict(budget), "model": options.model, "stories": config.stories})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    measurer = Measurer(config, load_readers(config, torch.device("cpu")))
    rows = measure(
        rows_of(options.tables, measurer, Workshop(work, budget), options.model),
        work / "rows",
    )
    found = verdicts(rows)
    text = as_markdown(rows, found)
    print(text)
    result = {
        "machine": describe(),
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.paper_tables", *(arguments or sys.argv[1:])]),
        "budget": {
            "minutes_per_row": budget.minutes_per_row,
            "image_steps": budget.image_steps,
            "clip_steps": budget.clip_steps,
            "vae_steps": budget.vae_steps,
        },
        "space": measurer.space,
        "rows": rows,
        "claims": [
            {"claim": v.claim.title, "paper": dict(v.claim.paper), "ours": dict(v.ours),
             "holds": v.holds}
            for v in found
        ],
    }  # fmt: skip
    if options.output:
        output = Path(options.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
        output.with_suffix(".md").write_text(text)
    return result


if __name__ == "__main__":
    main()
