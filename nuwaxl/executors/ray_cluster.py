"""Runs segments on the machines of a Ray cluster (the optional extra `nuwaxl[ray]`).

Knows batches, processes and Ray's object store; not frames' meaning, prompts or files.
"""

import logging
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
import ray.exceptions
import torch
from jaxtyping import Float
from torch import Tensor

from nuwaxl.executors.local import LocalExecutor, WorkerLostError
from nuwaxl.tree.coarse_to_fine import SegmentJob, SegmentModel

_MAX_RETRIES = 3
"""A batch that has cost more workers than that their lives is given up."""


class RayExecutor:
    """Runs batches on a model in each of several processes, anywhere in a Ray cluster.

    The model is put into the object store once, and loaded once by each worker. A worker that is
    killed is started again, and its batch runs again: a batch's latents count only when they have
    come back whole, so nothing is lost or doubled. A worker takes batches from when its model is
    loaded; one for which the cluster has no room yet keeps nobody waiting.

    Args:
        model: what makes the segments; picklable.
        num_workers: processes with a model.
        batch_size: largest number of segments in one call of a worker's model.
        max_batch_size: as in `LocalExecutor`; each worker measures its own runs.
        pad_batches: as in `LocalExecutor`.
        num_cpus: that Ray reserves for a worker.
        num_gpus: that Ray reserves for a worker; None: 1 where the model is on one.
        address: of the cluster; None: the one that is running or named by RAY_ADDRESS. Without one
            Ray runs on this machine, until `close`.

    Raises:
        ValueError: a number is less than 1.
    """

    def __init__(
        self,
        model: SegmentModel,
        *,
        num_workers: int = 1,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        pad_batches: bool = False,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        address: str | None = None,
    ) -> None:
        for name, value in (("num_workers", num_workers), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if max_batch_size is not None and max_batch_size < batch_size:
            raise ValueError(
                f"`max_batch_size` must be at least `batch_size` {batch_size}, got "
                f"{max_batch_size}."
            )
        self._owns_cluster = not ray.is_initialized() and _connect(
            address, math.ceil(num_workers * num_cpus)
        )
        if num_gpus is None:
            device = torch.device(getattr(model, "device", "cpu"))
            num_gpus = 1 if device.type == "cuda" else 0
        self.num_workers = num_workers
        self._batch_sizes = [batch_size] * num_workers
        actor = ray.remote(_Worker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=_MAX_RETRIES
        )
        # Kept, since Ray forgets what nobody holds, and a worker that starts anew loads it again;
        # in a list, so that it is not loaded before the worker asks.
        self._model = [ray.put(model)]
        self._workers: list[Any] = [
            actor.remote(batch_size, max_batch_size, pad_batches) for _ in range(num_workers)
        ]
        self._idle: list[int] = []
        self._waiting: list[tuple[Future[Tensor], Any, Any]] = []
        self._lock = threading.Lock()
        self._closed = False
        for index in range(num_workers):
            threading.Thread(target=self._welcome, args=(index,), daemon=True).start()

    @property
    def batch_size(self) -> int:
        """What the largest worker takes; one on which less fits runs a batch in parts."""
        return max(self._batch_sizes)

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
            if self._closed:
                return
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for future, _, _ in waiting:
            future.cancel()
        for worker in self._workers:
            ray.kill(worker)
        if self._owns_cluster:
            ray.shutdown()

    def worker_pids(self) -> list[int]:
        """The workers' processes, which are up then."""
        return ray.get([worker.load.remote(self._model) for worker in self._workers])

    def _welcome(self, index: int) -> None:
        # One that could not load the model says so when it is given its first batch.
        with suppress(ray.exceptions.RayError):
            ray.get(self._workers[index].load.remote(self._model))
        self._release(index)

    def _start_next(self) -> None:
        """Give the batch that waits longest to an idle worker, if there are both."""
        with self._lock:
            if self._closed or not self._idle or not self._waiting:
                return
            index = self._idle.pop(0)
            future, jobs, given = self._waiting.pop(0)
        if not future.set_running_or_notify_cancel():
            self._release(index)
            return
        # A thread for each batch that runs: Ray's own future would call back on its event loop.
        threading.Thread(target=self._run, args=(index, future, jobs, given), daemon=True).start()

    def _run(self, index: int, future: Future[Tensor], jobs: Any, given: Any) -> None:
        try:
            worker = self._workers[index]
            latents, size = ray.get(worker.generate.remote(self._model, jobs, given))
            self._batch_sizes[index] = size
            future.set_result(torch.from_numpy(latents.copy()))
        except BaseException as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, Exception):  # Ray ends threads so when it is shut down
                cause = WorkerLostError("The executor was closed while the batch ran.")
            elif isinstance(cause, ray.exceptions.RayError):
                cause = WorkerLostError(
                    f"A batch cost {_MAX_RETRIES + 1} workers their lives, or the model cannot be "
                    f"loaded: {str(cause).strip().splitlines()[0]}"
                )
            future.set_exception(cause)
        finally:
            self._release(index)

    def _release(self, index: int) -> None:
        with self._lock:
            self._idle.append(index)
        self._start_next()


class _Worker:
    """One process, and one model from when it is first asked for."""

    def __init__(self, batch_size: int, max_batch_size: int | None, pad_batches: bool) -> None:
        self._sizes = batch_size, max_batch_size, pad_batches
        self._executor: LocalExecutor | None = None

    def load(self, model: Sequence[Any]) -> int:
        """Have the model, a list of its one reference, and tell the process's number."""
        if self._executor is None:
            batch_size, most, pad_batches = self._sizes
            self._executor = LocalExecutor(
                ray.get(model[0]),
                batch_size=batch_size,
                max_batch_size=most,
                pad_batches=pad_batches,
            )
        return os.getpid()

    def generate(
        self, model: Sequence[Any], jobs: list[SegmentJob], given_latents: Any
    ) -> tuple[Any, int]:
        """The jobs' latents, as an array that Ray shares without copying, and the batch size."""
        self.load(model)
        assert self._executor is not None
        latents = self._executor.generate(jobs, torch.from_numpy(given_latents.copy()))
        return latents.to("cpu", torch.float32).numpy(), self._executor.batch_size


def _connect(address: str | None, num_cpus: int) -> bool:
    """Join the cluster; True if there was none, and one was started on this machine."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address or "auto", **quiet)
        return False
    except ConnectionError:
        if address:
            raise
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers that were asked for have a place, though they be more than the processors.
    num_cpus = max(num_cpus, os.cpu_count() or 1)
    ray.init("local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    return True
