"""Films end to end: frames per second, where the time goes, peak memory, plans and workers.

python -m benchmarks.films --frames 64 226 1024 3376

Every film is made in a process of its own, whose peak memory is then the film's: the tree with one
worker on all threads, with one worker on one thread, with W workers on one thread each, and a
sequential sampler on the same weights, whose runs cannot go side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, peak_gigabytes, quiet, save, save_plot
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.baselines import planned_film
from nuwaxl.evaluation.rows import plan_of
from nuwaxl.evaluation.stories import KnownFilm, sample_films
from nuwaxl.executors.local import ThreadedExecutor
from nuwaxl.films.film import Film
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.video import VideoWriter

FRAMES = (64, 226, 1024, 3376)


@dataclass(frozen=True)
class Case:
    """One film to be made."""

    plan: str
    """'tree' or 'sequential'."""
    frames: int
    workers: int
    threads: int
    """Of torch, in each worker."""
    steps: int
    """Denoising steps between keyframes; keyframes take twice as many."""

    @property
    def label(self) -> str:
        """For tables and plots."""
        return f"{self.plan}, {self.workers} x {self.threads} threads"


class Clock:
    """Seconds spent inside wrapped calls, by name, all threads together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, timed as `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed


def planned(pipeline: LongVideoPipeline, case: Case, story: KnownFilm) -> Film:
    """The film of a case; nothing runs yet."""
    sampling = SamplingConfig(num_inference_steps=2 * case.steps)
    if case.plan == "sequential":
        timeline = plan_of("sequential", case.frames, pipeline.config["segment_length"])
        return planned_film(pipeline, timeline, story, sampling=sampling, seed=0)

    def threaded(model: Any) -> ThreadedExecutor:
        return ThreadedExecutor([model.replica("cpu") for _ in range(case.workers)], batch_size=8)

    return pipeline.film(
        story.storyline,
        case.frames,
        fps=story.fps,
        sampling=sampling,
        batch_size=8,
        executor=threaded if case.workers > 1 else None,
    )


def write(film: Film, clock: Clock, stop: int | None = None) -> None:
    """Write a film's frames to a file that is thrown away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        film,
        VideoWriter(Path(folder) / "film.mp4", film.fps) as writer,
    ):
        put = clock.wrap("writing", writer.write)
        for picture in film.frames(0, stop):
            put(picture)


def make(case: Case, model: str | None) -> dict[str, Any]:
    """Make one film to a file and say what it took; torch's threads are set for good."""
    torch.set_num_threads(case.threads)
    pipeline = LongVideoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    story = sample_films(1, case.frames, seed=0, fps=8.0)[0]
    # The first calls choose kernels.
    write(planned(pipeline, case, story), Clock(), min(16, case.frames))
    clock = Clock()
    for name, module in (
        ("networks", pipeline.global_unet),
        ("networks", pipeline.local_unet),
        ("text", pipeline.text_encoder),
    ):
        module.forward = clock.wrap(name, module.forward)
    pipeline.vae.decode_latents = clock.wrap("decoder", pipeline.vae.decode_latents)
    start = time.perf_counter()
    film = planned(pipeline, case, story)
    write(film, clock)
    total = time.perf_counter() - start
    shares = {name: round(seconds / total, 3) for name, seconds in clock.seconds.items()}
    return {
        **asdict(case),
        "runs": film.timeline.num_segments,
        "frames_evaluated": film.timeline.frames_evaluated,
        "seconds": round(total, 2),
        "frames_per_second": round(case.frames / total, 2),
        "decode_ms_per_frame": round(clock.seconds["decoder"] / case.frames * 1e3, 2),
        "shares": shares,
        "peak_gigabytes": round(peak_gigabytes(), 3),
    }


def flops_per_frame(pipeline: LongVideoPipeline, sampling: SamplingConfig) -> dict[str, float]:
    """GFLOP of one frame in each part, by counting one full segment."""
    length = pipeline.config["segment_length"]
    shape = pipeline.latent_shape(pipeline.config["height"], pipeline.config["width"])
    latents = torch.randn(1, length, *shape)
    adapter = pipeline.prompt_adapter
    tokens = adapter.config["num_tokens"] if adapter is not None else 77
    embeds = torch.randn(1, length, tokens, pipeline.local_unet.config.cross_attention_dim)
    times = torch.arange(length)[None] / 8.0
    counts = {}
    for level, unet in enumerate((pipeline.global_unet, pipeline.local_unet)):
        settings = sampling.for_level(level)
        cache: dict[str, Any] = {}
        counted = []
        for _ in range(2):  # the second time, what follows from prompts and given frames is known
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                unet(latents, torch.tensor([1]), embeds, frame_times=times, cache=cache)
            counted.append(counter.get_total_flops())
        first, later = counted
        # Known apart for guided steps, with and without prompt, and for the others.
        guided = settings.guided_steps
        known = 2 * (guided > 0) + (guided < settings.num_inference_steps)
        total = later * settings.passes + (first - later) * known
        counts["between" if level else "keyframes"] = total / length
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipeline.vae.decode_latents(latents)
    counts["decoder"] = counter.get_total_flops() / length
    return {name: round(count / 1e9, 3) for name, count in counts.items()}


def cases(frames: Sequence[int], workers: int, steps: int) -> list[Case]:
    """All films of a benchmark, those of one length together."""
    cores = os.cpu_count() or 1
    each = max(1, cores // workers)
    found = []
    for length in frames:
        found += [
            Case("tree", length, 1, cores, steps),
            Case("tree", length, workers, each, steps),
            Case("sequential", length, 1, cores, steps),
        ]
        # One thread alone takes twice as long and says the same at every length.
        if length <= max(1024, min(frames)):
            found.append(Case("tree", length, 1, 1, steps))
    return list(dict.fromkeys(found))


def plots(films: Sequence[dict[str, Any]], folder: Path) -> None:
    """Speed and memory by length, as SVG."""
    lengths = sorted({film["frames"] for film in films})
    labels = {Case(*(film[k] for k in Case.__dataclass_fields__)).label: None for film in films}
    for field, title, name in (
        ("frames_per_second", "Frames per second", "films-speed.svg"),
        ("peak_gigabytes", "Peak memory, GB", "films-memory.svg"),
    ):
        found = {
            (Case(*(film[k] for k in Case.__dataclass_fields__)).label, film["frames"]): film[field]
            for film in films
        }
        lines = {label: [found.get((label, length)) for length in lengths] for label in labels}
        x_label = "frames of the film: " + ", ".join(map(str, lengths))
        save_plot(folder / name, title, lines, x_label)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.films", description=summary)
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    parser.add_argument("--workers", type=int, default=2, help="W")
    parser.add_argument(
        "--steps",
        type=int,
        default=SamplingConfig().for_level(1).num_inference_steps,
        help="denoising steps between keyframes",
    )
    parser.add_argument("--model", default=None, help="folder of a checkpoint; default: bundled")
    parser.add_argument("--output", default=None, help="JSON file; plots go beside it")
    parser.add_argument("--case", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    quiet()
    if options.case is not None:
        print(json.dumps(make(Case(**json.loads(options.case)), options.model)))
        return {}
    if min(options.frames) < 16 or min(options.workers, options.steps) < 1:
        parser.error("--frames must be at least 16, --workers and --steps at least 1")
    films = []
    for case in cases(options.frames, options.workers, options.steps):
        command = [sys.executable, "-m", "benchmarks.films", "--case", json.dumps(asdict(case))]
        command += ["--model", options.model] if options.model else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        films.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(films[-1]), flush=True)
    pipeline = LongVideoPipeline.from_pretrained(options.model)
    sampling = SamplingConfig(num_inference_steps=2 * options.steps)
    frames = " ".join(map(str, options.frames))
    result = {
        "machine": describe(
            f"python -m benchmarks.films --frames {frames} --workers {options.workers}"
            f" --steps {options.steps}"
        ),
        "sampling": sampling.fingerprint(),
        "gflop_per_frame": flops_per_frame(pipeline, sampling),
        "films": films,
    }
    if options.output:
        save(result, options.output)
        plots(films, Path(options.output).parent)
    return result


if __name__ == "__main__":
    main()
