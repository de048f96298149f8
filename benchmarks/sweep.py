"""Quality against work: the same stories made with many settings of the sampler.

python -m benchmarks.sweep --settings ddim:20/10:2/1 dpmpp_2m:12/6:2/1 unipc:8/4:2/1

A setting is SCHEDULER:STEPS/LOCAL_STEPS:GUIDANCE/LOCAL_GUIDANCE. Work is counted, not timed: how
often a network sees a frame, for each frame of the film. Needs the probe of `nuwaxl evaluate`.
"""

import argparse
import datetime
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, save, save_svg
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.evaluate import films_of, measure_row
from nuwaxl.evaluation.features import film_features, load_readers
from nuwaxl.evaluation.plots import scatter_plot
from nuwaxl.evaluation.rows import plan_of, render_film
from nuwaxl.evaluation.scoring import Effort, score_row
from nuwaxl.evaluation.settings import GENERATED, EvaluationConfig, check_sources, read_world
from nuwaxl.evaluation.stories import KnownFilm
from nuwaxl.parts.components import BUNDLED, LongVideoComponents
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.tree.jobs import FilmPlan

DEFAULTS = [
    f"{scheduler}:{steps}/{max(1, steps // 2)}:{guidance}/1"
    for scheduler, steps, guidance in itertools.product(
        ("ddim", "dpmpp_2m", "unipc"), (8, 20, 40), (1, 2)
    )
] + ["ddim:20/20:2/1", "ddim:20/10:2/2", "ddim:20/10:3/1"]

PLOTTED = ("accuracy.actor", "accuracy.all", "probe.avg_fd", "motion_error")
"""Numbers of a score that are drawn against the work."""

_SETTING = re.compile(r"(\w+):(\d+)/(\d+):([\d.]+)/([\d.]+)(?:@([\d.]+))?")


def read_setting(text: str) -> SamplingConfig:
    """What a setting means.

    Args:
        text: as 'ddim:20/10:2/1', or 'ddim:20/10:2/2@0.2' with guidance below level 0 for a
            fifth of its steps.

    Raises:
        ValueError: it is not written so, or a number is out of its range.
    """
    match = _SETTING.fullmatch(text)
    if match is None:
        raise ValueError(f"`settings` must be as ddim:20/10:2/1, got {text!r}.")
    scheduler, steps, local_steps, guidance, local_guidance, stop = match.groups()
    return SamplingConfig(
        int(steps),
        float(guidance),
        scheduler=scheduler,
        local_num_inference_steps=int(local_steps),
        local_guidance_scale=float(local_guidance),
        local_guidance_stop=float(stop or 1),
    )


def evaluations_per_frame(
    pipeline: LongVideoComponents, film: KnownFilm, row: str, sampling: SamplingConfig
) -> float:
    """How often a network sees a frame while a film is made, over the frames of the film.

    Args:
        pipeline: whose runs they are.
        film: what is made.
        row: by which plan.
        sampling: steps and guidance, which counts twice.
    """
    denoiser = pipeline.denoiser(sampling)
    timeline = plan_of(row, film.num_frames, pipeline.config["segment_length"])
    plan = FilmPlan(
        timeline,
        film.storyline,
        model_fingerprint="",
        sampling_fingerprint="",
        latent_shape=denoiser.latent_shape,
        fps=film.fps,
        seed=0,
        pinned_identities=dict.fromkeys(timeline.pinned, ""),
    )
    seen = 0
    for segment in timeline.display_order():
        seen += len(segment.frames) * denoiser.settings(plan.job(segment)).passes
    return seen / film.num_frames


def sweep(
    pipeline: LongVideoComponents, config: EvaluationConfig, settings: Sequence[str]
) -> list[dict[str, Any]]:
    """Score the same stories with every setting.

    Args:
        pipeline: makes the films.
        config: which films, in one row and of one length.
        settings: as 'ddim:20/10:2/1'.
    """
    (row,), (num_frames,) = config.rows, config.lengths
    readers = load_readers(config, torch.device("cpu"))
    films = films_of(config, num_frames, seed=config.seed)
    size = pipeline.config["height"]
    reference = [film_features(render_film(film, size), readers, film.scenes) for film in films]
    results = []
    for text in settings:
        chosen = replace(config, sampling=read_setting(text))
        made = [
            measure_row(chosen, row, film, number, readers, pipeline, None)
            for number, film in enumerate(films)
        ]
        seconds = sum(effort.seconds_per_frame for _, effort in made) / len(made)
        effort = Effort(seconds, made[0][1].num_runs, made[0][1].critical_path)
        score = score_row([film for film, _ in made], reference, effort)
        work = [evaluations_per_frame(pipeline, film, row, chosen.sampling) for film in films]
        results.append(
            {
                "setting": text,
                "evaluations_per_frame": round(sum(work) / len(work), 2),
                **score.flat(),
            }
        )
        right = score.accuracy["actor"]
        print(f"{text}: {results[-1]['evaluations_per_frame']} evaluations, actor {right}")
    return results


def draw(results: Sequence[dict[str, Any]], metric: str) -> str:
    """One metric against the work, a line for each scheduler and guidance, as an SVG file.

    Args:
        results: of `sweep`.
        metric: a key of them.
    """
    series: dict[str, list[tuple[float, float, str]]] = {}
    for result in results:
        if result[metric] is not None:
            scheduler, steps, guidance = result["setting"].split(":")
            point = (result["evaluations_per_frame"], result[metric], steps)
            series.setdefault(f"{scheduler} {guidance}", []).append(point)
    return scatter_plot(metric, series, x_label="network evaluations per frame")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", default=DEFAULTS, help="as ddim:20/10:2/1")
    parser.add_argument("--frames", type=int, default=226)
    parser.add_argument("--stories", type=int, default=3)
    parser.add_argument("--row", choices=GENERATED, default="tree")
    parser.add_argument("--model", default=None, help="folder of a checkpoint; default: bundled")
    parser.add_argument("--probe", default="out/probe", help="folder; see docs/evaluation.md")
    parser.add_argument("--features", nargs="+", default=["probe", "efficientnet"])
    parser.add_argument(
        "--output",
        default=f"benchmarks/results/sweep-{datetime.date.today().isoformat()}",
        help="name of the JSON and SVG files, without what follows the dot",
    )
    options = parser.parse_args(arguments)
    actors, backgrounds = read_world(Path(options.model or BUNDLED))
    try:
        config = EvaluationConfig(
            model=options.model,
            probe=options.probe,
            stories=options.stories,
            lengths=(options.frames,),
            rows=(options.row,),
            features=tuple(options.features),
            actors=actors,
            backgrounds=backgrounds,
        )
        check_sources(config)
        if not Path(options.probe).is_dir():
            raise ValueError(f"`probe` must be trained before: see {options.probe!r}.")
        for text in options.settings:
            read_setting(text)
    except ValueError as error:
        parser.error(str(error))
    pipeline = LongVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    result = {
        "machine": describe("python -m benchmarks.sweep"),
        "row": options.row,
        "frames": options.frames,
        "stories": options.stories,
        "results": sweep(pipeline, config, options.settings),
    }
    save(result, f"{options.output}.json")
    for metric in PLOTTED:
        save_svg(
            Path(f"{options.output}-{metric.replace('.', '-')}.svg"),
            draw(result["results"], metric),
        )
    return result


if __name__ == "__main__":
    main()
