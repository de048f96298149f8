"""Nothing is computed twice: the claims of docs/projects.md, shown on tiny random models.

python -m benchmarks.proofs orders access edit kills memory overhead forecast --frames 3376

Each proof prints one JSON line; one that fails raises. Tiny models make a run in milliseconds, so
what is shown is the order of things, not the speed of a model. Run it from the repository's root.
"""

import argparse
import hashlib
import json
import random
import resource
import shutil
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
from tiny import tiny_pipeline

from nuwaxl.cli.plan import plan_film
from nuwaxl.cli.request import resolve_request
from nuwaxl.coarse_to_fine import SegmentJob, SegmentModel
from nuwaxl.disk_store import DiskStore
from nuwaxl.executors import LocalExecutor, ThreadedExecutor
from nuwaxl.film import Film
from nuwaxl.inputs import FilmEdit
from nuwaxl.pipeline import ExecutorFactory, LongVideoPipeline
from nuwaxl.sampling import SamplingConfig
from nuwaxl.store import MemoryStore, SegmentStore
from nuwaxl.storyline import Storyline
from nuwaxl.timeline import Timeline
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


def make_in(order: str, film: Film) -> None:
    """Fill the film's store in some order."""
    if order == "level":
        for _ in film.orchestrator.run("level"):
            pass
    elif order != "display":
        windows = list(film.timeline.windows())
        windows.reverse() if order == "reversed" else random.Random(0).shuffle(windows)
        for window in windows:
            for _ in film.orchestrator.windows(window.frames[0], window.frames[0] + 1):
                pass


def executor_of(kind: str, workers: int, batch_size: int) -> ExecutorFactory:
    def make(model: Any) -> Any:
        if kind == "ray":
            from nuwaxl.ray_executor import RayExecutor

            return RayExecutor(
                model, num_workers=workers, batch_size=batch_size, pad_batches=True, num_cpus=0
            )
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
    for batch_size in (1, 4, 16):
        for order in ("display", "level", "reversed", "random"):
            for kind, workers in [(kind, n) for kind in kinds for n in (1, 2, 3)]:
                executor = executor_of(kind, workers, batch_size)
                with open_film(226, executor=executor, pipeline=pipeline) as film:
                    make_in(order, film)
                    frames = np.stack(list(film.frames()))
                films.setdefault(batch_size, frames)
                digests[f"batch {batch_size} {order} {kind} {workers}"] = digest(frames)
                assert np.array_equal(films[batch_size], frames), (batch_size, order, kind, workers)
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


# ---- Kills, memory --------------------------------------------------------------------------

COMMAND = "import sys; from nuwaxl.cli import main; sys.exit(main(sys.argv[1:]))"


def project_command(folder: Path, checkpoint: Path, batch_size: int) -> list[str]:
    argv = ["generate", "--project", str(folder), "-o", f"{folder}-png", "--quiet"]
    argv += ["--prompt", STORY[0], "--length", "226", "--steps", "8", "--device", "cpu"]
    argv += ["--model", str(checkpoint), "--dtype", "float32", "--batch-size", str(batch_size)]
    return [sys.executable, "-c", COMMAND, *argv]


def segments_in(folder: Path) -> int:
    return len(list(folder.glob("segments/*/*.safetensors")))


def digest_of_folder(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.png")):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def prove_kills(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each time one more run is there a process is killed; no run that was kept is made again.

    A kill meets a random moment between two runs; the film then has each run once in `made.tsv`.
    """
    chance, batch_size, total = random.Random(2), 1, 16
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tiny_pipeline(segment_length=16).save_pretrained(place / "model")
        command = project_command(place / "film", place / "model", batch_size)
        kills = 0
        while kills < arguments.kills:
            if segments_in(place / "film") >= total - 1:
                shutil.rmtree(place / "film")
            held = segments_in(place / "film")
            process = subprocess.Popen(command)
            while segments_in(place / "film") <= held and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
            kills += 1
        kept = segments_in(place / "film")
        subprocess.run(command, check=True)
        rows = (place / "film/segments/made.tsv").read_text().splitlines()[1:]
        keys = [row.split("\t")[1] for row in rows if row.count("\t") == 4]
        assert segments_in(place / "film") == total
        assert len(keys) == len(set(keys)), "a run that was kept is not made again"
        fresh = project_command(place / "fresh", place / "model", batch_size)
        subprocess.run(fresh, check=True)
        digests = {digest_of_folder(place / f"{each}-png") for each in ("film", "fresh")}
        assert len(digests) == 1, digests
    return {
        "kills": kills,
        "kept_at_the_last": kept,
        "kept_runs_made_again": 0,
        "digest": digests.pop(),
    }


def peak_memory(num_frames: int) -> float:
    """MiB at most in this process, which streams one film to a file."""
    with tempfile.TemporaryDirectory() as name:
        film = open_film(num_frames, DiskStore(Path(name) / "segments"))
        with VideoWriter(f"{name}/film.mp4", FPS) as writer:
            for frame in film.frames():
                writer.write(frame)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    """Takes so long for each segment, as a device would that is busy."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def generate(self, jobs: Sequence[SegmentJob], given_latents: torch.Tensor) -> torch.Tensor:
        """The segments, after a while."""
        time.sleep(self.seconds * len(jobs))
        return super().generate(jobs, given_latents)


def prove_overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """All but the model at batch 8, as a share of a film whose runs take `--seconds-per-run`."""
    with tempfile.TemporaryDirectory() as name:
        model = SleepingModel(0)
        orchestrator = orchestrate(
            Timeline.full(3), LocalExecutor(model, batch_size=8), DiskStore(name), model=model
        )
        began, cpu = time.perf_counter(), time.process_time()
        for _ in orchestrator.windows():
            pass
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    share = cpu / (241 * arguments.seconds_per_run + cpu)
    assert share < 0.02
    return {"runs": 241, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "share": round(share, 5)}


def prove_forecast(arguments: argparse.Namespace) -> dict[str, Any]:
    """Wall time on simulated workers against what `nuwaxl plan --workers` says."""
    request = resolve_request(
        prompts=None, story=None, config_file=None, assignments=None, needs_prompt=False,
        overrides={"depth": 3},
    )  # fmt: skip
    result = {}
    for workers in (1, 8, 64):
        seconds = arguments.sleep
        executor = ThreadedExecutor([SleepingModel(seconds) for _ in range(workers)])
        orchestrator = orchestrate(Timeline.full(3), executor)
        expected = plan_film(request, workers=workers, seconds_per_run=seconds).expected_seconds
        began = time.perf_counter()
        for _ in orchestrator.run("level"):
            pass
        wall = time.perf_counter() - began
        executor.close()
        result[workers] = {"forecast_s": expected, "wall_s": round(wall, 2)}
        assert abs(wall / expected - 1) < 0.1, result
    return result


PROOFS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "orders": prove_orders,
    "access": prove_access,
    "edit": prove_edit,
    "kills": prove_kills,
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
    parser.add_argument("--seconds-per-run", type=float, default=1.3, help="of the real model")
    parser.add_argument("--sleep", type=float, default=0.2, help="of a simulated run")
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
