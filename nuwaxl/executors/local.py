"""Where segments run: in this process, on one model or on several replicas of it.

Knows batches, memory and threads; not frames' meaning, prompts or files.
"""

import logging
import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

from nuwaxl.tree.coarse_to_fine import SegmentJob, SegmentModel

logger = logging.getLogger(__name__)

# CUDA, MPS and Python have classes or texts of their own; torch's CPU allocator says "can't".
_OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory")

# The first call at a size also pays for kernels and memory that the second finds ready.
_CALLS_PER_SIZE = 2
_WORTH_DOUBLING = 0.95
"""A larger batch is kept if a segment then costs at most so much of what it did."""


class SegmentTooLargeError(RuntimeError):
    """Not even one segment fits into the device's memory."""


class WorkerLostError(RuntimeError):
    """A batch was given up: every worker that took it died."""


class LocalExecutor:
    """Runs every batch at once in the calling thread.

    A batch that does not fit into memory is halved and run again, nothing is lost, and the smaller
    size is remembered in `batch_size`.

    Args:
        model: what makes the segments.
        batch_size: largest number of segments in one call of the model.
        max_batch_size: find the batch size by measuring the film's own runs: from `batch_size` on
            it is doubled, up to this, as long as that makes a segment cheaper. Results may then
            differ in the last bit from one time to the next. None: it stays.
        pad_batches: give the local model batches of exactly `batch_size` segments, a short one
            padded by its last segment again. Costs the padding's work; in return every segment is
            computed in the same shape whatever the order, the resume point or the number of
            workers, so results agree to the last bit where kernels round by shape. The global
            segment is always alone and needs none.

    Raises:
        ValueError: `batch_size` is less than 1, `max_batch_size` less than that.
    """

    num_workers = 0
    """No worker beside the caller: `submit` returns when the batch is finished."""

    def __init__(
        self,
        model: SegmentModel,
        *,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        pad_batches: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if max_batch_size is not None and max_batch_size < batch_size:
            raise ValueError(
                f"`max_batch_size` must be at least `batch_size` {batch_size}, got "
                f"{max_batch_size}."
            )
        self.model = model
        self.batch_size = batch_size
        self.pad_batches = pad_batches
        self._max_batch_size = max_batch_size or batch_size
        self._is_learning = self._max_batch_size > batch_size
        self._best: tuple[float, int] | None = None  # seconds per segment, at which size
        self._seconds: list[float] = []  # of the calls at this size

    def submit(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Future[Tensor]:
        """Run the jobs now; the future is finished and holds the latents or the error."""
        future: Future[Tensor] = Future()
        try:
            future.set_result(self.generate(jobs, given_latents))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to stop: no thread, no process."""

    # Generation never needs gradients, and threads do not inherit the caller's no_grad.
    @torch.no_grad()
    def generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Run the jobs in batches that fit.

        Args:
            jobs: segments of one role and one number of frames.
            given_latents: their given frames, zero elsewhere.

        Raises:
            SegmentTooLargeError: one segment alone does not fit.
            ValueError: the model's result does not have the shape of `given_latents`.
        """
        results: list[Tensor] = []
        start = 0
        while start < len(jobs):
            stop = min(start + self.batch_size, len(jobs))
            began = time.perf_counter()
            latents = self._try_batch(jobs[start:stop], given_latents[start:stop])
            if latents is not None:
                if self._is_learning:
                    self._learn(jobs[start:stop], time.perf_counter() - began)
                results.append(latents)
                start = stop
        return torch.cat(results)

    def _learn(self, jobs: Sequence[SegmentJob], seconds: float) -> None:
        """Choose the next batch size from what this batch took.

        Only full batches of deeper levels count: the global segment is always alone.
        """
        if len(jobs) < self.batch_size or jobs[0].segment.level == 0:
            return
        self._seconds.append(seconds)
        if len(self._seconds) < _CALLS_PER_SIZE:
            return
        cost, size = min(self._seconds) / self.batch_size, self.batch_size
        self._seconds = []
        if self._best is not None and cost > _WORTH_DOUBLING * self._best[0]:
            self.batch_size, self._is_learning = self._best[1], False
            logger.info("A batch of %d segments is fastest here.", self.batch_size)
            return
        self._best = cost, size
        self._is_learning = size < self._max_batch_size
        self.batch_size = min(2 * size, self._max_batch_size)

    def _try_batch(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"] | None:
        """One call of the model; None (and a smaller `batch_size`) when memory ran out."""
        num_surplus = 0
        if self.pad_batches and jobs[0].segment.level > 0:
            num_surplus = self.batch_size - len(jobs)
        index = torch.tensor([*range(len(jobs)), *[len(jobs) - 1] * num_surplus])
        padded_jobs = [*jobs, *[jobs[-1]] * num_surplus]
        try:
            latents = self.model.generate(padded_jobs, given_latents[index])
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(padded_jobs) == 1:
                raise SegmentTooLargeError(
                    f"One segment of {len(jobs[0].segment.frames)} frames and latents of shape "
                    f"{tuple(given_latents.shape[2:])} does not fit into memory: use a smaller "
                    "`segment_length`, picture size or dtype, or another device."
                ) from error
        else:
            if latents.shape != (len(padded_jobs), *given_latents.shape[1:]):
                raise ValueError(
                    f"`SegmentModel.generate` must return latents of shape "
                    f"{(len(padded_jobs), *given_latents.shape[1:])}, got {tuple(latents.shape)}."
                )
            return latents[: len(jobs)]
        # Outside of `except`: the traceback there still holds the failed call's tensors.
        self.batch_size, self._is_learning = len(padded_jobs) // 2, False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "Out of memory with %d segments at once; continuing with `batch_size` %d.",
            len(padded_jobs),
            self.batch_size,
        )
        return None


class ThreadedExecutor:
    """Runs batches on several replicas of one model, each in a thread of its own.

    One replica per device uses all devices of a machine; one replica alone lets the caller decode
    while the next batch is denoised.

    Args:
        models: replicas of one model, each on its device.
        batch_size: largest number of segments in one call of a replica.
        max_batch_size: as in `LocalExecutor`; each replica measures its own runs.
        pad_batches: as in `LocalExecutor`.

    Raises:
        ValueError: no model, the replicas' fingerprints differ, or a batch size cannot be.
    """

    def __init__(
        self,
        models: Sequence[SegmentModel],
        *,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        pad_batches: bool = False,
    ) -> None:
        fingerprints = sorted({model.fingerprint for model in models})
        if len(fingerprints) != 1:
            raise ValueError(
                f"`models` must be replicas of one model, got fingerprints {fingerprints}."
            )
        self._replicas = [
            LocalExecutor(
                model,
                batch_size=batch_size,
                max_batch_size=max_batch_size,
                pad_batches=pad_batches,
            )
            for model in models
        ]
        self._idle: queue.SimpleQueue[LocalExecutor] = queue.SimpleQueue()
        for replica in self._replicas:
            self._idle.put(replica)
        self._threads = ThreadPoolExecutor(len(self._replicas), thread_name_prefix="nuwaxl-replica")

    @property
    def num_workers(self) -> int:
        """Number of batches that can run at the same time."""
        return len(self._replicas)

    @property
    def batch_size(self) -> int:
        """What the largest replica takes; one on which less fits runs a batch in parts."""
        return max(replica.batch_size for replica in self._replicas)

    def submit(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Future[Tensor]:
        """Run the jobs on the next idle replica."""
        return self._threads.submit(self._generate, jobs, given_latents)

    def close(self) -> None:
        """Wait for what runs, drop what waits, end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        replica = self._idle.get()
        try:
            return replica.generate(jobs, given_latents)
        finally:
            self._idle.put(replica)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)
