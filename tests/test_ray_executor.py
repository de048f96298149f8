"""A small Ray on this machine; skipped where Ray is not installed."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import LinearModel, film, orchestrate
from orders import ORDERS, make_in
from tiny import tiny_pipeline
from torch import Tensor

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor, WorkerLostError
from nuwaxl.films.film import Film
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import Executor, SegmentJob, SegmentModel
from nuwaxl.tree.timeline import Timeline

ray = pytest.importorskip("ray")


from nuwaxl.executors.ray_cluster import RayExecutor  # noqa: E402

NUM_FRAMES, BATCH_SIZE = 28, 2  # in runs of 4 frames: 1 + 3 + 9
LARGE = (1, 4, 64, 64, 64)  # 4 MiB: Ray sends what is smaller than 100 kB in the message itself


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Three places for workers, in a folder of its own: no other cluster is seen or disturbed."""
    # Sockets in the folder may have names of about 100 letters, which pytest's own would exceed.
    folder = tempfile.mkdtemp(prefix="ray")
    changes = {
        "PYTHONPATH": os.pathsep.join(
            [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
        ),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    before = {name: os.environ.get(name) for name in changes}
    # Of this process, which Ray's inherit: a `runtime_env` would start them more slowly.
    os.environ.update(changes)
    try:
        ray.init(
            "local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=80_000_000,
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class Watched:
    """A model that notes each time it is loaded, and kills its process in its first local batch."""

    def __init__(self, model: Any, notes: Path):
        self.model, self.notes = model, notes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.note("loaded")

    def note(self, word: str) -> None:
        with (self.notes / word).open("a") as file:
            file.write(f"{os.getpid()}\n")

    def noted(self, word: str) -> list[str]:
        path = self.notes / word
        return path.read_text().split() if path.exists() else []

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.model.latent_shape

    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        if not isinstance(self.model, LinearModel):
            if "refuse" in jobs[0].prompts[0]:
                raise ArithmeticError("no")
            if "echo" in jobs[0].prompts[0]:
                return given_latents + 1
        if jobs[0].segment.level > 0 and not self.noted("killed"):
            self.note("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.model.generate(jobs, given_latents)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    made = open_film(lambda model: LocalExecutor(model))
    executor = made.orchestrator.executor
    assert isinstance(executor, LocalExecutor)
    return Watched(executor.model, tmp_path_factory.mktemp("notes"))


@pytest.fixture(scope="module")
def workers(watched: Watched) -> Iterator[RayExecutor]:
    """Two, each with the model of a whole tiny pipeline."""
    assert isinstance(watched, SegmentModel)
    with closing(
        RayExecutor(watched, num_workers=2, batch_size=BATCH_SIZE, pad_batches=True)
    ) as executor:
        yield executor


def open_film(executor: Any) -> Film:
    return tiny_pipeline().film(
        ["a dog runs", "a cat walks"],
        NUM_FRAMES,
        fps=8,
        sampling=SamplingConfig(num_inference_steps=2),
        store=MemoryStore(keep_released=True),
        executor=executor,
    )


@pytest.fixture(scope="module")
def local() -> np.ndarray:
    """The decoded film, made in this process."""
    made = open_film(lambda model: LocalExecutor(model, batch_size=BATCH_SIZE, pad_batches=True))
    return np.stack(list(made.frames()))


# The first test of all: later ones find the worker that was started again.
def test_a_worker_killed_in_mid_run_is_replaced_and_its_batch_is_neither_lost_nor_doubled(
    workers: RayExecutor, watched: Watched, local: np.ndarray
):
    assert isinstance(workers, Executor)
    first = set(map(str, workers.worker_pids()))
    assert len(first) == 2
    put: list[str] = []
    made = open_film(lambda _: workers)
    frames = np.stack(list(made.frames(on_segment=lambda job, _: put.append(job.key))))
    (killed,) = watched.noted("killed")
    assert killed in first
    assert len(put) == len(set(put)) == made.timeline.num_segments
    assert np.array_equal(frames, local)
    now = set(map(str, workers.worker_pids()))
    assert killed not in now
    assert len(now) == 2
    # Once by each of three processes, however many batches they ran.
    assert sorted(watched.noted("loaded")) == sorted(first | now)


@pytest.mark.parametrize("order", ORDERS)
def test_the_film_is_the_local_one_to_the_last_bit_in_any_order(
    workers: RayExecutor, local: np.ndarray, order: str
):
    made = open_film(lambda _: workers)
    make_in(order, made)
    assert np.array_equal(np.stack(list(made.frames())), local)


def jobs_that(word: str) -> list[SegmentJob]:
    orchestrator = orchestrate(Timeline(5, 5), story=word)
    return [orchestrator.job(segment) for segment in Timeline(5, 5).segments()]


def test_an_error_of_the_model_comes_back_as_it_is(workers: RayExecutor):
    with pytest.raises(ArithmeticError, match="no"):
        workers.submit(jobs_that("refuse"), torch.zeros(1, 5, 4, 4, 4)).result()


def test_latents_travel_both_ways_through_the_object_store(
    workers: RayExecutor, monkeypatch: pytest.MonkeyPatch
):
    refs: list[Any] = []
    put, get = ray.put, ray.get

    def watched_put(value: Any) -> Any:
        refs.append(put(value))
        return refs[-1]

    def watched_get(ref: Any) -> Any:
        refs.append(ref)
        return get(ref)

    monkeypatch.setattr(ray, "put", watched_put)
    monkeypatch.setattr(ray, "get", watched_get)
    given = torch.rand(LARGE)
    latents = workers.submit(jobs_that("echo"), given).result()
    assert torch.equal(latents, given + 1)
    found = ray.experimental.get_object_locations(refs, timeout_ms=10_000)
    sizes = [each["object_size"] for each in found.values() if each["node_ids"]]
    assert sum(size >= given.nbytes for size in sizes) == 2, "what was given, and what was made"


def test_a_worker_without_room_keeps_nobody_waiting(workers: RayExecutor):
    small = Timeline(17, 5)
    assert len(workers.worker_pids()) == 2  # of three places
    with closing(RayExecutor(LinearModel(), num_workers=2, batch_size=2)) as executor:
        made = film(orchestrate(small, executor))
    whole = film(orchestrate(small))
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[frame], whole[frame]) for frame in whole)
    assert len(ray.nodes()) == 1, "the cluster is not the executor's to end"


class Unloadable(LinearModel):
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise OSError("weights are not there")


def test_a_model_that_no_worker_can_load_is_one_clear_error():
    with (
        closing(RayExecutor(Unloadable())) as executor,
        pytest.raises(WorkerLostError, match=r"cannot be loaded: .*weights are not there"),
    ):
        executor.submit(jobs_that("a dog"), torch.zeros(1, 5, 2, 1, 3)).result()


@pytest.mark.parametrize("name", ["num_workers", "batch_size"])
def test_numbers_must_be_positive(name: str):
    numbers: Any = {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        RayExecutor(LinearModel(), **numbers)


def test_the_largest_batch_size_is_not_less_than_the_first():
    with pytest.raises(ValueError, match="`max_batch_size` must be at least `batch_size` 4, got 2"):
        RayExecutor(LinearModel(), batch_size=4, max_batch_size=2)
