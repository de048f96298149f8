"""Runs segments on the machines of a Ray cluster (the optional extra `nuwaxl[ray]`).

Knows batches, processes and Ray's object store; not frames' meaning, prompts or files.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import torch
from jaxtyping import Float
from torch import Tensor

from nuwaxl.coarse_to_fine import SegmentJob, SegmentModel
from nuwaxl.executors import LocalExecutor

_MAX_RETRIES = 3
"""A batch that has cost more workers than that their lives is given up."""


class RayExecutor:
    """Runs batches on a model in each of several processes, anywhere in a Ray cluster.

    The model is sent once, and loaded once by each worker. A worker that is killed is started
    again, and its batch runs again: a batch's latents count only when they have come back whole,
    so nothing is lost or doubled.

    Args:
        model: what makes the segments; picklable.
        num_workers: processes with a model.
        batch_size: largest number of segments in one call of a worker's model.
        pad_batches: as in `LocalExecutor`.
        num_cpus: that Ray reserves for a worker.
        num_gpus: that Ray reserves for a worker; None: 1 where the model is on one.
        address: of the cluster; None: the one that is running or, without one, this machine.

    Raises:
        ValueError: a number is less than 1.
    """

    def __init__(
        self,
        model: SegmentModel,
        *,
        num_workers: int = 1,
        batch_size: int = 1,
        pad_batches: bool = False,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        address: str | None = None,
    ) -> None:
        for name, value in (("num_workers", num_workers), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not ray.is_initialized():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        if num_gpus is None:
            device = torch.device(getattr(model, "device", "cpu"))
            num_gpus = 1 if device.type == "cuda" else 0
        self.num_workers = num_workers
        self.batch_size = batch_size
        actor = ray.remote(_Worker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=_MAX_RETRIES
        )
        # Kept, since Ray forgets what nobody holds, and a worker that starts anew loads it again.
        self._model = ray.put(model)
        self._workers: list[Any] = [
            actor.remote(self._model, batch_size, pad_batches) for _ in range(num_workers)
        ]
        self._idle = list(self._workers)
        self._waiting: list[tuple[Future[Tensor], Any, Any]] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Future[Tensor]:
        """Run the jobs on the next idle worker."""
        future: Future[Tensor] = Future()
        with self._lock:
            self._waiting.append((future, ray.put(list(jobs)), ray.put(given_latents.numpy())))
        self._start_next()
        return future

    def close(self) -> None:
        """Drop what waits and end the workers; whoever wants what runs has waited for it."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for future, _, _ in waiting:
            future.cancel()
        for worker in self._workers:
            ray.kill(worker)

    def worker_pids(self) -> list[int]:
        """The workers' processes, which are up then."""
        return ray.get([worker.pid.remote() for worker in self._workers])

    def _start_next(self) -> None:
        """Give the batch that waits longest to an idle worker, if there are both."""
        with self._lock:
            if self._closed or not self._idle or not self._waiting:
                return
            worker = self._idle.pop(0)
            future, jobs, given = self._waiting.pop(0)
        if not future.set_running_or_notify_cancel():
            self._release(worker)
            return
        # A thread for each batch that runs: Ray's own future would call back on its event loop.
        threading.Thread(target=self._run, args=(worker, future, jobs, given), daemon=True).start()

    def _run(self, worker: Any, future: Future[Tensor], jobs: Any, given: Any) -> None:
        try:
            latents = ray.get(worker.generate.remote(jobs, given))
            future.set_result(torch.from_numpy(latents.copy()))
        except BaseException as error:
            cause = getattr(error, "cause", None)
            future.set_exception(cause if isinstance(cause, Exception) else error)
        finally:
            self._release(worker)

    def _release(self, worker: Any) -> None:
        with self._lock:
            self._idle.append(worker)
        self._start_next()


class _Worker:
    """One process with one model."""

    def __init__(self, model: SegmentModel, batch_size: int, pad_batches: bool) -> None:
        self._executor = LocalExecutor(model, batch_size=batch_size, pad_batches=pad_batches)

    def generate(self, jobs: list[SegmentJob], given_latents: Any) -> Any:
        """The jobs' latents, as an array that Ray shares without copying."""
        latents = self._executor.generate(jobs, torch.from_numpy(given_latents.copy()))
        return latents.to("cpu", torch.float32).numpy()

    def pid(self) -> int:
        """Of this process."""
        import os

        return os.getpid()
