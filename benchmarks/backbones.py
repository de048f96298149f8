"""The U-Net against the transformer: both trained from nothing at one budget, measured on films.

python -m benchmarks.backbones --minutes-per-stage 8 --output benchmarks/results/backbones.json

A forward pass of either takes as many operations (docs/models.md), and either sees the same clips
in the same order for the same number of steps: single frames first, then each role from there. Runs
that were stopped go on where they were. The pipelines stay in `--work`, for
`nuwaxl evaluate --model` and `nuwaxl generate --model`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe, quiet, save
from benchmarks.networks import BACKBONES
from benchmarks.paper_networks import (
    ACTORS,
    BACKGROUNDS,
    Budget,
    Workshop,
    claim_folder,
    small_world,
)
from benchmarks.paper_numbers import table
from nuwaxl.evaluation.evaluate import Evaluation, evaluate, films_of
from nuwaxl.evaluation.features import Readers, load_readers
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.report import write_report
from nuwaxl.evaluation.rows import render_frame
from nuwaxl.evaluation.settings import EvaluationConfig, check_sources
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.video import contact_sheet

STAGES = ("image", "global", "local")

SHOWN = ("accuracy", "seam_ratio", "flicker", "motion_error", "drift.all")
"""Of a score, for the table of results."""

SHEET_COLUMNS = 10


def train(shop: Workshop, backbone: str) -> tuple[LongVideoPipeline, dict[str, Any]]:
    """A pipeline of one backbone in both roles, and what its training took.

    Args:
        shop: trains and keeps the networks.
        backbone: of `BACKBONES`.
    """
    took = {stage: _log(shop.from_nothing(backbone, stage)) for stage in STAGES}
    folders = [shop.from_nothing(backbone, stage) for stage in STAGES[1:]]
    pipeline = shop.assembled(*folders)
    parameters = sum(weight.numel() for weight in pipeline.local_unet.parameters())
    target = shop.folder / "models" / backbone
    if not (target / "world.json").is_file():
        pipeline.save_pretrained(target)
        world = {"actors": ACTORS, "backgrounds": BACKGROUNDS}
        (target / "world.json").write_text(json.dumps(world, indent=1) + "\n")
    return pipeline, {"parameters": parameters, "training": took}


def _log(model: Path) -> dict[str, float]:
    """Steps, median seconds of a step, and the loss of the last steps of a run."""
    log = model.parent / "log" / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = json.loads((model.parent / "done.json").read_text())
    result = {"steps": float(done["steps"])}
    if entries:
        seconds = [entry["seconds_per_step"] for entry in entries]
        result |= {"seconds_per_step": float(np.median(seconds)), "mse": entries[-1]["mse"]}
    return result


def measure(
    config: EvaluationConfig, readers: Readers, pipeline: LongVideoPipeline, folder: Path
) -> Evaluation:
    """The films of one pipeline as `nuwaxl evaluate` measures them, with its report.

    Args:
        config: which films.
        readers: networks that look at them.
        pipeline: what makes them.
        folder: for report.json and report.html.
    """
    probe = Path(config.probe)
    facts = Probe.facts(probe) if probe.is_dir() else None
    found = evaluate(config, readers, probe_facts=facts, pipeline=pipeline)
    write_report(found, folder)
    return found


def sheet(
    config: EvaluationConfig, pipelines: Sequence[LongVideoPipeline], num_frames: int
) -> Image.Image:
    """For every story three lines: real renders, then the film of each pipeline.

    Args:
        config: which stories.
        pipelines: what makes them.
        num_frames: of every film.
    """
    shown = np.linspace(0, num_frames - 1, SHEET_COLUMNS).round().astype(int).tolist()
    pictures: list[np.ndarray] = []
    for number, film in enumerate(films_of(config, num_frames, seed=config.seed)):
        pictures += [render_frame(film, frame) for frame in shown]
        for pipeline in pipelines:
            made = pipeline.film(
                film.storyline,
                num_frames,
                fps=film.fps,
                sampling=config.sampling,
                seed=config.seed + number,
                batch_size=config.batch_size,
            )
            pictures += [frame for number, frame in enumerate(made.frames()) if number in shown]
    return contact_sheet(pictures, columns=SHEET_COLUMNS)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, checked before anything is loaded."""
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backbones", description=summary)
    parser.add_argument(
        "--minutes-per-stage", type=float, default=8.0, help="as of benchmarks.paper_tables"
    )
    parser.add_argument("--strips", type=int, default=600, help="stories of each kind of strips")
    parser.add_argument("--stories", type=int, default=3, help="films of every row and length")
    parser.add_argument("--frames", type=int, default=226, help="of every film")
    parser.add_argument("--probe", default="out/probe", help="folder of the probe")
    parser.add_argument("--work", default="out/backbones", help="keeps networks and reports")
    parser.add_argument("--output", default=None, help="JSON file; .md and .png beside it")
    parser.add_argument("--smoke", action="store_true", help="one step of everything, in seconds")
    options = parser.parse_args(arguments)
    if options.minutes_per_stage <= 0 or min(options.strips, options.stories) < 1:
        parser.error("--minutes-per-stage, --strips and --stories must be above 0")
    if options.frames < 16:
        parser.error(f"--frames must be at least 16, got {options.frames}")
    if not options.smoke and not (Path(options.probe) / "probe.json").is_file():
        parser.error(f"--probe must be a folder with a probe, got {options.probe!r}: `nuwaxl"
                     " evaluate` trains one")  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    quiet()
    work = Path(options.work)
    budget = Budget(options.minutes_per_stage, options.strips, options.smoke)
    config = small_world(
        budget,
        work,
        options.probe,
        options.stories,
        lengths=(options.frames,),
        rows=("local", "tree"),
    )
    try:
        check_sources(config)
        claim_folder(work, asdict(budget))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    readers = load_readers(config, torch.device("cpu"))
    shop = Workshop(work, budget)
    pipelines, facts, rows = [], {}, []
    for backbone in BACKBONES:
        pipeline, facts[backbone] = train(shop, backbone)
        pipelines.append(pipeline)
        for line in measure(config, readers, pipeline, work / "reports" / backbone).rows:
            flat = line.score.flat()
            rows.append({
                "backbone": backbone, "row": line.row,
                **{name: value for name, value in flat.items() if _is_shown(name)},
            })  # fmt: skip
    text = "\n".join(table(rows)) + "\n"
    print(text)
    command = " ".join(["python -m benchmarks.backbones", *(arguments or sys.argv[1:])])
    result = {
        "machine": describe(command),
        "budget": {
            "image_steps": budget.image_steps,
            "clip_steps": budget.clip_steps,
            "strips": budget.num_strips,
        },
        "networks": facts,
        "rows": rows,
    }
    if options.output:
        output = Path(options.output)
        save(result, str(output))
        output.with_suffix(".md").write_text(text)
        sheet(config, pipelines, options.frames).save(output.with_suffix(".png"))
    return result


def _is_shown(name: str) -> bool:
    return name in SHOWN or name.split(".")[0] in SHOWN or name.endswith((".avg_fd", ".block_fd"))


if __name__ == "__main__":
    main()
