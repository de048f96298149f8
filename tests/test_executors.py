import logging
import threading
from collections.abc import Sequence
from contextlib import closing

import pytest
import torch
from oracle import LATENT_SHAPE, LinearModel, film, orchestrate
from torch import Tensor

from nuwaxl.executors.local import LocalExecutor, SegmentTooLargeError, ThreadedExecutor
from nuwaxl.tree.coarse_to_fine import Executor, SegmentJob, SegmentModel
from nuwaxl.tree.timeline import Timeline

TIMELINE = Timeline(65, 5)  # full: 1 + 4 + 16 segments of 5 frames


def stacked(frames: dict[int, torch.Tensor]) -> torch.Tensor:
    assert sorted(frames) == list(range(len(frames)))
    return torch.stack([frames[frame] for frame in range(len(frames))])


def leaf_batch(size: int):
    orchestrator = orchestrate(TIMELINE)
    jobs = [orchestrator.job(segment) for segment in TIMELINE.level(2)][:size]
    return jobs, torch.rand(size, 5, *LATENT_SHAPE)


def test_both_executors_and_the_oracle_meet_the_protocols():
    model = LinearModel()
    assert isinstance(model, SegmentModel)
    assert isinstance(LocalExecutor(model), Executor)
    with closing(ThreadedExecutor([model])) as executor:
        assert isinstance(executor, Executor)


def test_local_executor_has_finished_when_submit_returns():
    jobs, given = leaf_batch(3)
    future = LocalExecutor(LinearModel(), batch_size=4).submit(jobs, given)
    assert future.done()
    assert future.result().shape == given.shape


def test_a_model_error_comes_with_the_future():
    class Broken(LinearModel):
        def generate(self, jobs, given_latents):
            raise RuntimeError("no kernel image")

    future = LocalExecutor(Broken()).submit(*leaf_batch(1))
    with pytest.raises(RuntimeError, match="no kernel image"):
        future.result()


def test_a_result_of_another_shape_is_refused():
    class Short(LinearModel):
        def generate(self, jobs, given_latents):
            return super().generate(jobs, given_latents)[:, :-1]

    with pytest.raises(ValueError, match=r"must return latents of shape \(1, 5, 2, 1, 3\)"):
        LocalExecutor(Short()).submit(*leaf_batch(1)).result()


def test_out_of_memory_halves_the_batch_loses_nothing_and_is_remembered(caplog):
    jobs, given = leaf_batch(13)
    model = LinearModel(max_batch=3)
    executor = LocalExecutor(model, batch_size=16)
    with caplog.at_level(logging.WARNING, "nuwaxl.executors.local"):
        latents = executor.generate(jobs, given)
    assert torch.equal(latents, LinearModel().generate(jobs, given))
    assert [job for call in model.calls for job in call] == jobs
    assert executor.batch_size == 3
    assert [record.args for record in caplog.records] == [(13, 6), (6, 3)]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_every_device_s_way_to_say_out_of_memory_is_understood(error):
    class Small(LinearModel):
        def generate(self, jobs, given_latents):
            if len(jobs) > 1:
                raise error
            return super().generate(jobs, given_latents)

    jobs, given = leaf_batch(2)
    assert LocalExecutor(Small(), batch_size=2).generate(jobs, given).shape == given.shape


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_device_that_really_runs_out_of_memory_is_understood(device):
    class Hungry(LinearModel):
        def generate(self, jobs, given_latents):
            if len(jobs) > 2:
                torch.empty(2**50, device=device)
            return super().generate(jobs, given_latents)

    whole = stacked(film(orchestrate(TIMELINE)))
    models = [Hungry(), Hungry()]
    with closing(ThreadedExecutor(models, batch_size=8)) as executor:
        assert torch.equal(stacked(film(orchestrate(TIMELINE, executor))), whole)
    assert sum(model.num_runs for model in models) == 21
    assert max(len(call) for model in models for call in model.calls) == 2


def test_a_batch_too_large_for_one_replica_is_run_there_in_parts():
    small, large = LinearModel(max_batch=1), LinearModel()
    with closing(ThreadedExecutor([small, large], batch_size=4)) as executor:
        whole = stacked(film(orchestrate(TIMELINE, executor)))
        assert executor.batch_size == 4
    assert torch.equal(whole, stacked(film(orchestrate(TIMELINE))))
    assert small.num_runs + large.num_runs == 21
    assert max(map(len, large.calls)) > 1


def test_one_segment_too_large_is_said_clearly():
    executor = LocalExecutor(LinearModel(max_batch=0), batch_size=4)
    with pytest.raises(SegmentTooLargeError, match=r"One segment of 5 frames .* use a smaller"):
        executor.submit(*leaf_batch(4)).result()


def test_the_orchestrator_follows_a_batch_size_that_shrank():
    model = LinearModel(max_batch=3)
    executor = LocalExecutor(model, batch_size=8)
    whole = stacked(film(orchestrate(TIMELINE, executor)))
    assert torch.equal(whole, stacked(film(orchestrate(TIMELINE))))
    # 4 and 2 came from halving 8; every later batch was asked for in the smaller size.
    assert executor.batch_size == 2
    assert model.num_runs == 21
    assert max(map(len, model.calls)) <= 3


def test_padding_gives_every_local_call_one_shape():
    model = LinearModel()
    executor = LocalExecutor(model, batch_size=8, pad_batches=True)
    whole = stacked(film(orchestrate(TIMELINE, executor)))
    assert torch.equal(whole, stacked(film(orchestrate(TIMELINE))))
    assert {len(call) for call in model.calls[1:]} == {8}
    assert len(model.calls[0]) == 1


def test_padding_shrinks_with_memory():
    jobs, given = leaf_batch(3)
    model = LinearModel(max_batch=2)
    executor = LocalExecutor(model, batch_size=8, pad_batches=True)
    latents = executor.generate(jobs, given)
    assert torch.equal(latents, LinearModel().generate(jobs, given))
    assert [len(call) for call in model.calls] == [2, 2]


def test_gradients_are_off_in_every_thread():
    class Asks(LinearModel):
        def generate(self, jobs, given_latents):
            assert not torch.is_grad_enabled()
            return super().generate(jobs, given_latents)

    with closing(ThreadedExecutor([Asks(), Asks()])) as executor:
        executor.submit(*leaf_batch(1)).result()


def test_replicas_share_the_work_and_make_the_same_film():
    replicas = [LinearModel() for _ in range(3)]
    with closing(ThreadedExecutor(replicas, batch_size=2)) as executor:
        whole = stacked(film(orchestrate(TIMELINE, executor)))
    assert torch.equal(whole, stacked(film(orchestrate(TIMELINE))))
    assert all(model.num_runs for model in replicas)
    assert sum(model.num_runs for model in replicas) == 21


def test_batches_of_several_replicas_run_at_the_same_time():
    # Each waits for the other: one after the other would time out.
    barrier = threading.Barrier(2)

    class Meets(LinearModel):
        def generate(self, jobs, given_latents):
            if jobs[0].segment.level == 1:
                barrier.wait(timeout=60)
            return super().generate(jobs, given_latents)

    with closing(ThreadedExecutor([Meets(), Meets()], batch_size=1)) as executor:
        assert len(list(orchestrate(TIMELINE, executor).run("level"))) == 21


def test_replicas_of_different_models_are_refused():
    other = LinearModel()
    other.fingerprint = "another"
    with pytest.raises(ValueError, match="replicas of one model"):
        ThreadedExecutor([LinearModel(), other])
    with pytest.raises(ValueError, match="replicas of one model"):
        ThreadedExecutor([])


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        LocalExecutor(LinearModel(), batch_size=0)


class ClockedModel(LinearModel):
    """Takes a fixed time for each call, and more for each segment beyond what pays."""

    def __init__(self, pays_until: int, clock: list[float]):
        super().__init__()
        self.pays_until, self.clock = pays_until, clock

    def generate(self, jobs: Sequence[SegmentJob], given_latents: Tensor) -> Tensor:
        self.clock[0] += 1 + 3 * max(0, len(jobs) - self.pays_until)
        return super().generate(jobs, given_latents)


@pytest.mark.parametrize(("pays_until", "found"), [(1, 1), (4, 4), (64, 16)])
def test_the_batch_size_is_found_by_measuring_the_film_s_own_runs(monkeypatch, pays_until, found):
    clock = [0.0]
    monkeypatch.setattr("nuwaxl.executors.local.time.perf_counter", lambda: clock[0])
    model = ClockedModel(pays_until, clock)
    executor = LocalExecutor(model, max_batch_size=16)
    made = film(orchestrate(Timeline(1025, 5), executor, model=model))
    assert executor.batch_size == found
    assert len(made) == 1025
    assert model.num_runs == Timeline(1025, 5).num_segments


def test_measuring_ends_where_memory_does():
    model = LinearModel(max_batch=6)
    executor = LocalExecutor(model, max_batch_size=64)
    film(orchestrate(Timeline(1025, 5), executor, model=model))
    assert executor.batch_size <= 4
    assert model.num_runs == Timeline(1025, 5).num_segments


def test_replicas_measure_too():
    models = [LinearModel(max_batch=6), LinearModel(max_batch=6)]
    with closing(ThreadedExecutor(models, max_batch_size=64)) as executor:
        made = film(orchestrate(Timeline(257, 5), executor))
        # 8 comes after 4, and a film may end before it is tried; where memory ended, half of what
        # was tried is left, which is 3 after the 7 segments that a level had left.
        assert 1 <= executor.batch_size <= 8
    assert len(made) == 257
    assert sum(model.num_runs for model in models) == Timeline(257, 5).num_segments


def test_the_largest_batch_size_is_not_less_than_the_first():
    with pytest.raises(ValueError, match="`max_batch_size` must be at least `batch_size` 4, got 2"):
        LocalExecutor(LinearModel(), batch_size=4, max_batch_size=2)
