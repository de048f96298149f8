"""Nothing is computed twice: the claims of docs/projects.md, shown on tiny random models.

python -m benchmarks.proofs orders access edit kills disk memory overhead forecast --frames 3376

Each proof prints one JSON line; one that fails raises. Tiny models make a run in milliseconds, so
what is shown is the order of things, not the speed of a model; `overhead` alone measures the
bundled one. Run it from the repository's root, `overhead` and `forecast` on a machine that does
nothing else.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from oracle import LinearModel, orchestrate
from orders import ORDERS, make_in
from tiny import tiny_pipeline

from benchmarks.breaking import prove_disk, prove_kills
from benchmarks.machine import peak_gigabytes
from nuwaxl.cli.plan import plan_film
from nuwaxl.cli.request import resolve_request
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor, ThreadedExecutor
from nuwaxl.films.film import Film
from nuwaxl.films.inputs import FilmEdit
from nuwaxl.pipelines.long_video import ExecutorFactory, LongVideoPipeline
from nuwaxl.stores.disk import DiskStore
from nuwaxl.stores.store import MemoryStore, SegmentStore
from nuwaxl.tree.coarse_to_fine import SegmentJob, SegmentModel
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline
from nuwaxl.video import VideoWriter

FPS = 8
STORY = ["a dog runs", "a cat walks the beach", "a fox runs night"]


def story(num_frames: int) -> Storyline:
    return Storyline.parse(STORY, num_frames / FPS)


def open_film(
    num_frames: int,
    store: SegmentStore | None = None,
    executor: ExecutorFactory | None = None,
    edits: Sequence[FilmEdit] = (),
    pipeline: LongVideoPipeline | None = None,
    batch_size: int = 8,
) -> Film:
    pipeline = pipeline or tiny_pipeline(segment_length=16)
    return pipeline.film(
        story(num_frames),
        num_frames,
        fps=FPS,
        sampling=SamplingConfig(num_inference_steps=1),
        store=MemoryStore(keep_released=True) if store is None else store,
        batch_size=batch_size,
        executor=executor,
        edits=edits,
    )


def digest(frames: Iterable[np.ndarray]) -> str:
    total = hashlib.sha256()
    for frame in frames:
        total.update(frame.tobytes())
    return total.hexdigest()[:16]


class Count:
    """The keys of all runs, as they end."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, job: SegmentJob, latents: torch.Tensor) -> None:
        """Hear of a run that has ended."""
        self.keys.append(job.key)


# ---- Orders, batches, workers ---------------------------------------------------------------


def start_ray() -> None:
    """One small cluster on this machine for all films; workers find the tests' models."""
    import ray

    places = (str(Path(__file__).parent.parent / "tests"), os.environ.get("PYTHONPATH", ""))
    os.environ |= {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    ray.init(
        "local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
    )


def executor_of(kind: str, workers: int, batch_size: int) -> ExecutorFactory:
    def make(model: Any) -> Any:
        if kind == "ray":
            from nuwaxl.executors.ray_cluster import RayExecutor

            return RayExecutor(model, num_workers=workers, batch_size=batch_size, pad_batches=True)
        if workers == 1:
            return LocalExecutor(model, batch_size=batch_size, pad_batches=True)
        replicas: list[SegmentModel] = [model.replica("cpu") for _ in range(workers)]
        return ThreadedExecutor(replicas, batch_size=batch_size, pad_batches=True)

    return make


def prove_orders(arguments: argparse.Namespace) -> dict[str, Any]:
    """One digest for each batch shape; between shapes, the largest difference in 8-bit pixels."""
    pipeline = tiny_pipeline(segment_length=16)
    films: dict[int, np.ndarray] = {}
    digests: dict[str, str] = {}
    kinds = ["local", "ray"] if arguments.ray else ["local"]
    if arguments.ray:
        start_ray()
    for batch_size in (1, 4, 16):
        for kind, workers in [(kind, n) for kind in kinds for n in (1, 2, 3)]:
            make = executor_of(kind, workers, batch_size)
            held = open_film(226, executor=make, pipeline=pipeline)
            with held:  # whose workers make the films of all orders
                for order in ORDERS:
                    film = open_film(
                        226,
                        executor=lambda _, held=held: held.orchestrator.executor,
                        pipeline=pipeline,
                    )
                    make_in(order, film)
                    frames = np.stack(list(film.frames()))
                    films.setdefault(batch_size, frames)
                    name = f"batch {batch_size} {order} {kind} {workers}"
                    digests[name] = digest(frames)
                    assert np.array_equal(films[batch_size], frames), name
    first = films[1].astype(int)
    return {
        "films": len(digests),
        "digests": {f"batch {size}": digest(frames) for size, frames in films.items()},
        "largest_difference_between_batch_shapes": max(
            int(np.abs(first - frames).max()) for frames in films.values()
        ),
    }


# ---- Random access and edits ----------------------------------------------------------------


def prove_access(arguments: argparse.Namespace) -> dict[str, Any]:
    """Any frame costs at most a run on each level, and is that of the whole film to the last bit.

    At batch size 1: kernels round by the shape of a batch, which a single frame cannot fill.
    """
    pipeline = tiny_pipeline(segment_length=16)
    whole = list(open_film(arguments.frames, pipeline=pipeline, batch_size=1).frames())
    chosen = random.Random(1).sample(range(arguments.frames), arguments.samples)
    runs, worst = [], 0
    for frame in [0, arguments.frames - 1, *chosen]:
        count = Count()
        film = open_film(arguments.frames, pipeline=pipeline, batch_size=1)
        (picture,) = film.frames(frame, frame + 1, on_segment=count)
        runs.append(len(count.keys))
        worst = max(worst, int(np.abs(picture.astype(int) - whole[frame]).max()))
        assert runs[-1] <= film.timeline.num_levels
    assert worst == 0
    return {"frames": arguments.frames, "most_runs": max(runs), "largest_difference": worst}


def prove_edit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Eight seconds: the runs forecast, the runs made, and what changed outside."""
    num_frames = arguments.frames
    start = num_frames // 3
    stop = start + 8 * FPS
    store, pipeline = MemoryStore(keep_released=True), tiny_pipeline(segment_length=16)
    before = list(open_film(num_frames, store, pipeline=pipeline).frames())
    changed_story = story(num_frames).with_prompt(start / FPS, stop / FPS, "a horse walks forest")
    edit = FilmEdit(start, stop, changed_story, seed=0)
    film = open_film(num_frames, store, edits=[edit], pipeline=pipeline)
    forecast, count = [job.key for job in film.orchestrator.missing()], Count()
    after = list(film.frames(on_segment=count))
    changed = [i for i in range(num_frames) if not np.array_equal(before[i], after[i])]
    assert sorted(forecast) == sorted(count.keys)
    assert start <= min(changed) <= max(changed) < stop
    return {
        "range": [start, stop],
        "runs": len(count.keys),
        "of": film.timeline.num_segments,
        "frames_changed": len(changed),
        "frames_changed_outside": 0,
    }


# ---- Memory -----------------------------------------------------------------------------------


def peak_memory(num_frames: int) -> float:
    """MiB at most in this process, which streams one film to a file."""
    with tempfile.TemporaryDirectory() as name:
        film = open_film(num_frames, DiskStore(Path(name) / "segments"))
        with VideoWriter(f"{name}/film.mp4", FPS) as writer:
            for frame in film.frames():
                writer.write(frame)
    return peak_gigabytes() * 1e9 / 2**20


def prove_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory of one process for each length, its store on disk."""
    peaks = {}
    for num_frames in arguments.lengths:
        argv = [sys.executable, "-m", "benchmarks.proofs", "--peak", str(num_frames)]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        peaks[num_frames] = float(done.stdout.split()[-1])
    spread = max(peaks.values()) / min(peaks.values()) - 1
    assert spread < 0.05, peaks
    return {"peak_mib": peaks, "spread": round(spread, 4)}


# ---- Overhead and forecast ------------------------------------------------------------------


class SleepingModel(LinearModel):
    """Takes so long for each segment, as a device would that is busy.

    Its own sums count as a part of that: 64 devices would not wait for one another's, as threads of
    one interpreter do.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def generate(self, jobs: Sequence[SegmentJob], given_latents: torch.Tensor) -> torch.Tensor:
        """The segments, after a while."""
        end = time.perf_counter() + self.seconds * len(jobs)
        latents = super().generate(jobs, given_latents)
        time.sleep(max(0, end - time.perf_counter()))
        return latents


class TimedModel:
    """A model, and the seconds spent in it."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, 0.0
        self.fingerprint, self.latent_shape = model.fingerprint, model.latent_shape

    def generate(self, jobs: Sequence[SegmentJob], given_latents: torch.Tensor) -> torch.Tensor:
        """The segments, timed."""
        began = time.perf_counter()
        try:
            return self.model.generate(jobs, given_latents)
        finally:
            self.seconds += time.perf_counter() - began


def prove_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """All but the bundled model at batch 8, its store on disk, as a share of the wall time."""
    torch.set_num_threads(os.cpu_count() or 1)  # a model as fast as it is here
    pipeline = LongVideoPipeline.from_pretrained()
    timed: list[TimedModel] = []

    def executor(model: Any) -> LocalExecutor:
        timed.append(TimedModel(model))
        return LocalExecutor(timed[-1], batch_size=8)

    def make(num_frames: int, folder: str) -> float:
        film = pipeline.film(
            story(num_frames), num_frames, store=DiskStore(folder), executor=executor
        )
        began = time.perf_counter()
        for _ in film.orchestrator.windows():
            pass
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as name:
        make(17, f"{name}/warm")
        wall = make(226, f"{name}/film")
    torch.set_num_threads(1)
    share = 1 - timed[-1].seconds / wall
    assert share < 0.02, (wall, timed[-1].seconds)
    return {"runs": 16, "wall_s": round(wall, 3), "share": round(share, 5)}


def prove_forecast(arguments: argparse.Namespace) -> dict[str, Any]:
    """Wall time on simulated workers against what `nuwaxl plan --workers` says.

    In display order, as `nuwaxl generate` runs it, and level by level; in batches of 1 and of 8.
    """
    request = resolve_request(
        prompts=None, story=None, config_file=None, assignments=None, needs_prompt=False,
        overrides={"depth": 3},
    )  # fmt: skip
    seconds, result = arguments.sleep, {}
    for workers in arguments.workers:
        expected = plan_film(request, workers=workers, seconds_per_run=seconds).expected_seconds
        assert expected is not None
        walls: dict[str, float] = {}
        # On one worker a film of 241 runs takes its time, and no order can be better than another.
        kinds = [(order, size) for order in ("display", "level") for size in (1, 8)]
        for order, size in kinds[:1] if workers == 1 else kinds:
            models = [SleepingModel(seconds) for _ in range(workers)]
            executor = ThreadedExecutor(models, batch_size=size)
            orchestrator = orchestrate(Timeline.full(3), executor)
            began = time.perf_counter()
            for _ in orchestrator.run("level") if order == "level" else orchestrator.windows():
                pass
            walls[f"{order} {size}"] = round(time.perf_counter() - began, 3)
            executor.close()
        result[workers] = {"forecast_s": expected, "wall_s": walls}
        assert all(abs(wall / expected - 1) < 0.1 for wall in walls.values()), result
    return result


PROOFS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "orders": prove_orders,
    "access": prove_access,
    "edit": prove_edit,
    "kills": prove_kills,
    "disk": prove_disk,
    "memory": prove_memory,
    "overhead": prove_overhead,
    "forecast": prove_forecast,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("proofs", nargs="*", help=f"of {', '.join(PROOFS)}; all without any")
    parser.add_argument("--frames", type=int, default=3376, help="of the film of access and edit")
    parser.add_argument("--samples", type=int, default=8, help="frames to jump to")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--lengths", type=int, nargs="+", default=[226, 3376, 50626])
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds of a simulated run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64], help="simulated")
    parser.add_argument("--ray", action="store_true", help="also on Ray")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.peak is not None:
        print(peak_memory(arguments.peak))
        return
    if unknown := [name for name in arguments.proofs if name not in PROOFS]:
        parser.error(f"no such proof {unknown[0]!r}; there are {', '.join(PROOFS)}")
    for name in arguments.proofs or PROOFS:
        began = time.perf_counter()
        result = PROOFS[name](arguments)
        seconds = round(time.perf_counter() - began, 1)
        print(json.dumps({"proof": name, **result, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
