"""Diffusion over diffusion: sparse keyframes over the whole film, then every gap between them.

Knows segments and their latents; not how a segment is denoised, where it runs, or pixels.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nuwaxl.stores.store import FrameMissingError, SegmentStore
from nuwaxl.tensors.fingerprint import content_hash
from nuwaxl.tree.frontier import Frontier, ItemT, Order, Request, segment_requests, window_requests
from nuwaxl.tree.jobs import Edit, FilmPlan, FrameSource, SegmentJob, pinned_key
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Segment, Timeline, Window

__all__ = [
    "Edit",
    "Executor",
    "FrameSource",
    "OnSegment",
    "Orchestrator",
    "SegmentJob",
    "SegmentModel",
    "content_hash",
]

logger = logging.getLogger(__name__)

OnSegment = Callable[[SegmentJob, Tensor], object]


@runtime_checkable
class SegmentModel(Protocol):
    """Makes the new frames of segments: the paper's global and local diffusion in one."""

    @property
    def fingerprint(self) -> str:
        """Changes when the weights or the code would give other latents for the same job."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame's latents."""
        ...

    def generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Make the segments of `jobs`.

        Args:
            jobs: segments of one number of frames and one role: all level 0, or all deeper.
                `job.segment.given` says which frames are given.
            given_latents: the given frames' latents, zero elsewhere; float32 on the CPU.

        Returns:
            All frames' latents on any device, given frames as they came.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """Where batches of segments run."""

    @property
    def num_workers(self) -> int:
        """Batches that run beside the caller; 0 when `submit` itself runs the batch."""
        ...

    @property
    def batch_size(self) -> int:
        """Largest number of jobs to hand to `submit`; may shrink."""
        ...

    def submit(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Future[Tensor]:
        """Run `SegmentModel.generate` on the jobs; the future brings its result or its error."""
        ...

    def close(self) -> None:
        """Release what runs the batches."""
        ...


class Orchestrator:
    """Makes a film from coarse to fine: a segment runs once its given frames exist.

    The recursion of the paper (section 3.3) as one rule: the timeline says which segments there
    are, a job's key whether it has run, and what is not in the store runs as soon as its given
    frames are. Resume, preview, random access and work in parallel follow. A model sees jobs and
    their given frames only, so the film is the same whatever the order, the batch size or the
    number of workers, up to kernels that round differently by batch shape.

    Args:
        timeline: the frames and the segments that make them.
        storyline: the prompt of every moment.
        executor: where batches run; stays the caller's to close.
        store: where finished segments are read and put. Of two generators at work on one
            `MemoryStore`, each releases what the other may need: make it keep what is released.
        model_fingerprint: `SegmentModel.fingerprint`.
        sampling_fingerprint: `SamplingConfig.fingerprint()`.
        latent_shape: `SegmentModel.latent_shape`.
        fps: frames per second; a frame's time is its number / fps.
        seed: of the film's noise.
        pinned: latents (channels, height, width) of exactly the timeline's pinned frames.
        pinned_identities: content hashes to know pinned frames by, such as that of the picture's
            bytes, which an encoder's rounding does not change. A frame without one is known by
            the hash of its latents.
        edits: what was changed since, in that order.
        edit_pictures: latents of the pictures that edits pin, by their content hashes.

    Raises:
        ValueError: `fps` is not positive, or `pinned` does not fit `timeline` or `latent_shape`.
    """

    def __init__(
        self,
        timeline: Timeline,
        storyline: Storyline,
        executor: Executor,
        store: SegmentStore,
        *,
        model_fingerprint: str,
        sampling_fingerprint: str,
        latent_shape: tuple[int, int, int],
        fps: float,
        seed: int,
        pinned: Mapping[int, Tensor] | None = None,
        pinned_identities: Mapping[int, str] | None = None,
        edits: Sequence[Edit] = (),
        edit_pictures: Mapping[str, Tensor] | None = None,
    ) -> None:
        latents_of = {
            frame: self._checked(latents, latent_shape, f"frame {frame}")
            for frame, latents in (pinned or {}).items()
        }
        identities = {frame: content_hash(latents) for frame, latents in latents_of.items()}
        identities |= dict(pinned_identities or {})
        self._pictures = {
            pinned_key(identities[frame]): latents for frame, latents in latents_of.items()
        }
        for identity, latents in (edit_pictures or {}).items():
            key = pinned_key(identity)
            self._pictures[key] = self._checked(latents, latent_shape, f"picture {identity[:12]}")
        self.plan = FilmPlan(
            timeline,
            storyline,
            model_fingerprint=model_fingerprint,
            sampling_fingerprint=sampling_fingerprint,
            latent_shape=latent_shape,
            fps=fps,
            seed=seed,
            pinned_identities=identities,
            edits=edits,
        )
        self.executor = executor
        self.store = store
        self.latent_shape = latent_shape

    @staticmethod
    def _checked(latents: Tensor, latent_shape: tuple[int, int, int], where: str) -> Tensor:
        if latents.shape != latent_shape:
            raise ValueError(
                f"`pinned` latents must have shape {latent_shape}, "
                f"got {tuple(latents.shape)} at {where}."
            )
        return latents.detach().to("cpu", torch.float32)

    def job(self, segment: Segment) -> SegmentJob:
        """The segment's job; its key is known before anything has run."""
        return self.plan.job(segment)

    def missing(
        self, start: int = 0, stop: int | None = None, *, max_level: int | None = None
    ) -> Iterator[SegmentJob]:
        """The jobs that `windows` with these arguments would run now.

        An exact dry run, unless the store lets go what a later part of a longer film needs again.
        """
        frontier: Frontier[Window] = Frontier()
        seen: set[str] = set()
        for request in window_requests(self.plan, start, stop, max_level):
            frontier.passed(request)
            for wanted in request.jobs.values():
                for job in self._unmade(wanted, frontier):
                    if job.key not in seen:
                        yield job
                    if self.plan.num_edits:  # else nothing that was passed is met again
                        seen.add(job.key)

    def run(
        self,
        order: Order = "display",
        *,
        max_level: int | None = None,
        on_segment: OnSegment | None = None,
    ) -> Generator[tuple[SegmentJob, Float[Tensor, "frames channels height width"]], None, None]:
        """Make every segment, running those that are not in the store.

        Args:
            order: "display" yields parents before children and children in time order, and
                releases what is passed: constant memory. "level" makes coarse levels first (the
                next one only fills up batches), so that the whole film shows early; it yields
                segments as they come and releases nothing.
            max_level: stop at this level; 0 makes the keyframes only.
            on_segment: called with job and latents as soon as a segment has run.

        Yields:
            Each segment's job and latents; these are the store's, not to be changed in place.

        Raises:
            ValueError: no such order, or `max_level` is negative.
        """
        requests = segment_requests(self.plan, order, max_level)
        in_order = order == "display"
        with closing(self._make(requests, in_order=in_order, on_segment=on_segment)) as made:
            for request in made:
                job = request.item
                yield job, self._read(job.key, job.segment.frames)

    def windows(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        max_level: int | None = None,
        on_segment: OnSegment | None = None,
    ) -> Generator[tuple[Window, Float[Tensor, "frames channels height width"]], None, None]:
        """Make the frames from `start` to before `stop`, and run only what they need.

        From an empty store a frame costs at most one run on each level. Segments that end before
        the window at hand are released; the ancestors of the last window stay in the store.

        Args:
            start: first frame number.
            stop: frame number to stop before; None is the end of the film.
            max_level: make the coarse film of the frames of the levels down to this one.
            on_segment: called with job and latents as soon as a segment has run.

        Yields:
            In display order, each decoding window that the range meets and its frames' latents.

        Raises:
            ValueError: the range is not within the film, or `max_level` is negative.
        """
        requests = window_requests(self.plan, start, stop, max_level)
        with closing(self._make(requests, in_order=True, on_segment=on_segment)) as made:
            for request in made:
                found: dict[str, Tensor] = {}
                frames = request.item.frames
                latents = [self._frame(place, found, frames) for place in request.places]
                yield request.item, torch.stack(latents)

    def _make(
        self,
        requests: Iterator[Request[ItemT]],
        *,
        in_order: bool,
        on_segment: OnSegment | None,
    ) -> Generator[Request[ItemT], None, None]:
        """Yield each request once its segments are in the store: the whole algorithm.

        When the iterator is closed or a batch fails, jobs that wait are dropped; batches that run
        are waited for and kept.
        """
        frontier: Frontier[ItemT] = Frontier(self.executor.num_workers)
        try:
            while True:
                self._collect(frontier, on_segment, timeout=0)
                self._look_ahead(frontier, requests)
                while len(frontier.in_flight) < self.executor.num_workers:
                    if not self._submit(frontier):
                        break
                request = frontier.next_finished(in_order=in_order)
                if request is not None:
                    if in_order:
                        for key in frontier.passed(request):
                            self.store.release(key)
                    yield request
                elif frontier.queue:
                    # An executor without workers runs the batch here and now; it comes last so
                    # that finished frames do not wait for it.
                    if not frontier.in_flight:
                        self._submit(frontier)
                    self._collect(frontier, on_segment, timeout=None)
                else:
                    return
        finally:
            self._wind_up(frontier, on_segment)

    def _look_ahead(self, frontier: Frontier[ItemT], requests: Iterator[Request[ItemT]]) -> None:
        """Take requests while few enough are open; what they lack waits for a worker."""
        # Twice what can run at once, so that the parents of later segments are met in time to
        # fill up the batches of earlier ones.
        limit = 2 * self.executor.batch_size * max(1, self.executor.num_workers)
        if self.executor.num_workers > 1:
            # And those below the next two segments, which else would run while others wait.
            limit += 2 * self.plan.timeline.segment_length
        for request in islice(requests, max(0, limit - len(frontier.queue))):
            for wanted in request.jobs.values():
                for job in self._unmade(wanted, frontier):
                    frontier.want(job)
            frontier.queue.append(request)

    def _unmade(self, job: SegmentJob, frontier: Frontier[ItemT]) -> Iterator[SegmentJob]:
        """The jobs still to run so that this one is done, sources first, each only once."""
        if job.key in frontier.last_frames:
            return
        frontier.last_frames[job.key] = job.segment.frames[-1]
        if job.key in self.store:
            return
        for parent in self.plan.parents(job):
            yield from self._unmade(parent, frontier)
        yield job

    def _submit(self, frontier: Frontier[ItemT]) -> bool:
        """Start the next batch of jobs whose given frames exist; False if there is none."""
        jobs = frontier.next_batch(self.executor.batch_size)
        if not jobs:
            return False
        given_latents = self._given_latents(jobs)
        future = self.executor.submit(jobs, given_latents)
        frontier.in_flight[future] = (jobs, given_latents)
        return True

    def _collect(
        self, frontier: Frontier[ItemT], on_segment: OnSegment | None, *, timeout: float | None
    ) -> None:
        """Put finished batches into the store, waiting for one if `timeout` is None."""
        for future in wait(frontier.in_flight, timeout, FIRST_COMPLETED).done:
            jobs, given_latents = frontier.in_flight.pop(future)
            is_given = torch.tensor([job.segment.given for job in jobs])[..., None, None, None]
            # Bit for bit the parents' frames, whatever the model's dtype did to them.
            made = future.result().to("cpu", torch.float32)
            batch = torch.where(is_given, given_latents, made)
            for job, latents in zip(jobs, batch, strict=True):
                # A copy, since a slice would keep the whole batch in memory.
                self.store.put(job.key, latents.clone())
                frontier.finish(job.key)
            if on_segment is not None:
                for job, latents in zip(jobs, batch, strict=True):
                    on_segment(job, latents)

    def _wind_up(self, frontier: Frontier[ItemT], on_segment: OnSegment | None) -> None:
        """Call back the batches that have not begun; wait for the others and keep them."""
        for future in list(frontier.in_flight):
            if future.cancel():
                del frontier.in_flight[future]
        while frontier.in_flight:
            try:
                self._collect(frontier, on_segment, timeout=None)
            except Exception:
                logger.warning("Another batch failed while winding up.", exc_info=True)

    def _given_latents(
        self, jobs: Sequence[SegmentJob]
    ) -> Float[Tensor, "batch frames channels height width"]:
        """The given frames of a batch, zero elsewhere."""
        given_latents = torch.zeros(len(jobs), len(jobs[0].segment.frames), *self.latent_shape)
        found: dict[str, Tensor] = {}
        for job, out in zip(jobs, given_latents, strict=True):
            for position, source in enumerate(job.sources):
                if source is not None:
                    out[position] = self._frame(source, found, job.segment.given_frames)
        return given_latents

    def _frame(
        self, source: FrameSource, found: dict[str, Tensor], frames: Sequence[int]
    ) -> Float[Tensor, "channels height width"]:
        """One frame's latents; `found` keeps the segments that were read."""
        if source.key in self._pictures:
            return self._pictures[source.key]
        if source.key not in found:
            found[source.key] = self._read(source.key, frames)
        return found[source.key][source.position]

    def _read(
        self, key: str, frames: Sequence[int]
    ) -> Float[Tensor, "frames channels height width"]:
        try:
            return self.store.get(key)
        except KeyError as error:
            raise FrameMissingError(
                f"Frames {list(frames)} are not in the store: their segment has not run."
            ) from error
