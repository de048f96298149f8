"""A segment model whose every film is known in closed form, so the whole algorithm is exact.

Keyframes lie on a curve of time; a local segment interpolates linearly between the nearest given
frames. Interpolating between points of a line stays on the line: the finished film is the
polygon through the keyframes, whatever lies between.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

from nuwaxl.executors.local import LocalExecutor
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import Orchestrator, SegmentJob
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

LATENT_SHAPE = (2, 1, 3)


def curve(time: float) -> float:
    """Of values that no interpolation meets by chance, within [-1, 1]."""
    return math.sin(3 * time + 1)


class LinearModel:
    """`curve` at level 0, linear in time between the nearest given frames below."""

    latent_shape = LATENT_SHAPE

    def __init__(self, value: Callable[[float], float] = curve, max_batch: int | None = None):
        self.fingerprint = "linear"
        self.value = value
        self.max_batch = max_batch
        self.calls: list[list[SegmentJob]] = []
        self.threads: set[int] = set()

    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        if self.max_batch is not None and len(jobs) > self.max_batch:
            raise torch.OutOfMemoryError(f"{len(jobs)} segments are more than {self.max_batch}.")
        assert len({(job.segment.level == 0, len(job.segment.frames)) for job in jobs}) == 1
        self.calls.append(list(jobs))
        self.threads.add(threading.get_ident())
        latents = given_latents.clone()
        for index, job in enumerate(jobs):
            is_given = np.array(job.segment.given)
            assert job.segment.level == 0 or is_given[[0, -1]].all()
            times = np.array(job.times)
            # Every cell holds the same number; the mean would hide a frame that is half made.
            known = given_latents[index, :, 0, 0, 0].double().numpy()[is_given]
            for position in np.flatnonzero(~is_given):
                value = (
                    self.value(times[position])
                    if job.segment.level == 0
                    else np.interp(times[position], times[is_given], known)
                )
                latents[index, position] = float(value)
        return latents

    @property
    def num_runs(self) -> int:
        return sum(map(len, self.calls))


class RecordingStore(MemoryStore):
    """Remembers the most segments that it ever held."""

    most_held = 0

    def put(self, key: str, latents: Tensor) -> None:
        super().put(key, latents)
        self.most_held = max(self.most_held, len(self))


class FailingExecutor(LocalExecutor):
    """Fails when it comes to the batch of that number."""

    def __init__(self, model: LinearModel, *, batch_size: int, fails_at: int):
        super().__init__(model, batch_size=batch_size)
        self.num_left = fails_at

    def submit(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Future[Tensor]:
        self.num_left -= 1
        if self.num_left < 0:
            future: Future[Tensor] = Future()
            future.set_exception(ConnectionError("The device is gone."))
            return future
        return super().submit(jobs, given_latents)


def orchestrate(
    timeline: Timeline,
    executor=None,
    store=None,
    *,
    model: LinearModel | None = None,
    story: str | Storyline = "a dog runs",
    fps: float = 8,
    seed: int = 0,
    sampling: str = "20 steps",
    **pins,
) -> Orchestrator:
    model = model or LinearModel()
    if isinstance(story, str):
        story = Storyline.parse(story, duration=timeline.num_frames / fps)
    return Orchestrator(
        timeline,
        story,
        executor or LocalExecutor(model),
        MemoryStore() if store is None else store,
        model_fingerprint=model.fingerprint,
        sampling_fingerprint=sampling,
        latent_shape=LATENT_SHAPE,
        fps=fps,
        seed=seed,
        **pins,
    )


def film(orchestrator: Orchestrator, start: int = 0, stop: int | None = None) -> dict[int, Tensor]:
    """The frames of `windows` by number, each kept once."""
    frames: dict[int, Tensor] = {}
    for window, latents in orchestrator.windows(start, stop):
        assert frames.keys().isdisjoint(window.shown)
        frames.update(zip(window.shown, latents[window.skip :], strict=False))
    return frames


def closed_form(timeline: Timeline, *, fps: float = 8) -> np.ndarray:
    """The finished film's value at every frame: the polygon through the keyframes."""
    values = [curve(frame / fps) for frame in timeline.keyframes]
    return np.interp(np.arange(timeline.num_frames), timeline.keyframes, values)


def pins_on_the_film(timeline: Timeline) -> dict[int, Tensor]:
    """Latents for the timeline's pinned frames with which the film keeps its closed form."""
    return {
        frame: torch.full(LATENT_SHAPE, float(closed_form(timeline)[frame]))
        for frame in timeline.pinned
    }
