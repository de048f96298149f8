"""A small Ray on this machine; skipped where Ray is not installed."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
import torch
from oracle import LATENT_SHAPE, LinearModel, film, orchestrate
from torch import Tensor

from nuwaxl.coarse_to_fine import Executor, SegmentJob
from nuwaxl.store import MemoryStore
from nuwaxl.timeline import Timeline

ray = pytest.importorskip("ray")

from nuwaxl.ray_executor import RayExecutor  # noqa: E402

SMALL = Timeline(65, 5)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80_000_000,
            runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        )
    except Exception as error:  # Ray gives a busy machine 30 s
        pytest.skip(f"Ray does not start here: {error}")
    yield
    ray.shutdown()


class SlowModel(LinearModel):
    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        time.sleep(0.05)
        return super().generate(jobs, given_latents)


class RefusingModel(LinearModel):
    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        raise ArithmeticError("no")


def test_the_film_is_the_same_though_a_worker_is_killed_in_mid_run():
    whole = film(orchestrate(SMALL))
    store = MemoryStore(keep_released=True)
    put: list[str] = []
    with closing(RayExecutor(SlowModel(), num_workers=2, batch_size=2)) as executor:
        assert isinstance(executor, Executor)
        pids = executor.worker_pids()
        assert len(set(pids)) == 2
        killer = threading.Timer(0.2, os.kill, (pids[0], signal.SIGKILL))
        killer.start()
        orchestrator = orchestrate(SMALL, executor, store)
        made = {}
        for window, latents in orchestrator.windows(on_segment=lambda job, _: put.append(job.key)):
            made.update(zip(window.shown, latents, strict=False))
        assert set(executor.worker_pids()) != set(pids)
    assert len(put) == len(set(put)) == SMALL.num_segments
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[frame], whole[frame]) for frame in whole)


def test_an_error_of_the_model_comes_back_as_it_is():
    with closing(RayExecutor(RefusingModel())) as executor:
        jobs = [orchestrate(SMALL).job(next(SMALL.level(0)))]
        with pytest.raises(ArithmeticError, match="no"):
            executor.submit(jobs, torch.zeros(1, 5, *LATENT_SHAPE)).result()


def test_numbers_must_be_positive():
    with pytest.raises(ValueError, match="`num_workers` must be at least 1, got 0"):
        RayExecutor(LinearModel(), num_workers=0)
