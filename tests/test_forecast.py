"""What `nuwaxl plan --workers` expects, against films made on workers with a clock of their own."""

from collections.abc import Sequence
from concurrent.futures import Future, wait

import pytest
from oracle import LinearModel, orchestrate
from torch import Tensor

from nuwaxl.cli.plan import plan_film
from nuwaxl.cli.request import resolve_request
from nuwaxl.tree.coarse_to_fine import Executor, SegmentJob
from nuwaxl.tree.timeline import Timeline


class VirtualExecutor:
    """Workers that take a unit of time for each full segment of a batch, and no real time."""

    def __init__(self, num_workers: int, batch_size: int, segment_length: int):
        self.num_workers, self.batch_size = num_workers, batch_size
        self.segment_length = segment_length
        self.model = LinearModel()
        self.now = 0.0
        self.running: list[tuple[float, Future[Tensor], Tensor]] = []

    def submit(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Future[Tensor]:
        assert len(self.running) < self.num_workers
        assert 1 <= len(jobs) <= self.batch_size
        future: Future[Tensor] = Future()
        future.set_running_or_notify_cancel()
        takes = sum(len(job.segment.frames) for job in jobs) / self.segment_length
        made = self.model.generate(jobs, given_latents)
        self.running.append((self.now + takes, future, made))
        return future

    def close(self) -> None:
        pass

    def pass_time(self) -> None:
        """Until the next batch ends."""
        self.now = min(end for end, _, _ in self.running)
        for each in [each for each in self.running if each[0] <= self.now + 1e-9]:
            self.running.remove(each)
            each[1].set_result(each[2])


def expected(num_frames: int, workers: int, seconds_per_run: float = 1.0) -> float:
    request = resolve_request(
        prompts=None, story=None, config_file=None, assignments=None, needs_prompt=False,
        overrides={"length": str(num_frames)}, segment_length=16,
    )  # fmt: skip
    plan = plan_film(request, workers=workers, seconds_per_run=seconds_per_run)
    assert plan.expected_seconds is not None
    return plan.expected_seconds


@pytest.mark.parametrize(
    ("num_frames", "workers", "batch_size", "order"),
    [
        (3376, 1, 8, "display"),
        (3376, 8, 8, "display"),
        (3376, 64, 8, "display"),
        (3376, 64, 8, "level"),
        (3376, 64, 1, "display"),
        (3376, 3, 1, "display"),
        (1000, 8, 1, "level"),
        (1000, 64, 8, "display"),
    ],
)
def test_the_plan_expects_what_workers_take_within_ten_percent(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, workers: int, batch_size: int, order: str
):
    timeline = Timeline(num_frames, 16)
    executor = VirtualExecutor(workers, batch_size, 16)
    assert isinstance(executor, Executor)

    def wait_in_virtual_time(futures, timeout, when):
        if timeout is None:  # the caller has nothing else to do
            executor.pass_time()
        return wait(futures, timeout, when)

    monkeypatch.setattr("nuwaxl.tree.coarse_to_fine.wait", wait_in_virtual_time)
    film = orchestrate(timeline, executor)
    for _ in film.run("level") if order == "level" else film.windows():
        pass
    assert executor.model.num_runs == timeline.num_segments
    assert abs(executor.now / expected(num_frames, workers) - 1) < 0.1


def test_no_number_of_workers_beats_the_critical_path_or_their_share_of_the_work():
    for workers in (1, 2, 7, 15, 64, 1000):
        runs = expected(3376, workers)
        assert runs >= max(3, 241 / workers)
    assert expected(3376, 1000) == 3
    assert expected(3376, 1, seconds_per_run=0.23) == pytest.approx(241 * 0.23, abs=1e-3)


def test_few_segments_are_shared_out_and_many_fill_batches():
    executor = VirtualExecutor(3, 8, 16)
    film = orchestrate(Timeline.full(3), executor)
    sizes = []

    def submit(jobs, given_latents, run=executor.submit):
        sizes.append(len(jobs))
        future = run(jobs, given_latents)
        executor.pass_time()
        return future

    executor.submit = submit
    for _ in film.run("level"):
        pass
    assert sum(sizes) == 241
    assert sizes[0] == 1
    assert sizes[1] == 5, "15 segments for three workers"
    assert max(sizes) == 8
    assert sizes[-3:] == [1, 1, 1]
