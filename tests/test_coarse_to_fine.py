import threading
from contextlib import closing

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    LATENT_SHAPE,
    FailingExecutor,
    LinearModel,
    RecordingStore,
    closed_form,
    curve,
    film,
    orchestrate,
    pins_on_the_film,
)

from nuwaxl.executors.local import LocalExecutor, ThreadedExecutor
from nuwaxl.stores.store import FrameMissingError, MemoryStore
from nuwaxl.tree.storyline import Storyline
from nuwaxl.tree.timeline import Timeline

SMALL = Timeline(65, 5)  # full: 1 + 4 + 16 segments of 5 frames, keyframes 0 16 32 48 64
PAPER = Timeline.full(3)  # 3,376 frames, 241 segments of 16


def values(frames: dict[int, torch.Tensor]) -> np.ndarray:
    """One number for each frame 0..n-1, checked to be the same in every cell."""
    assert list(frames) == list(range(len(frames)))
    latents = torch.stack(list(frames.values()))
    assert latents.shape[1:] == LATENT_SHAPE
    assert torch.equal(latents, latents[:, :1, :1, :1].expand_as(latents))
    return latents[:, 0, 0, 0].numpy()


# ---- The film is exact ----------------------------------------------------------------------


@st.composite
def timelines(draw) -> Timeline:
    num_frames = draw(st.integers(1, 70))
    segment_length = draw(st.integers(3, 9))
    pinned = draw(st.lists(st.integers(0, num_frames - 1), max_size=4))
    return Timeline(num_frames, segment_length, pinned=tuple(pinned))


@settings(max_examples=25, deadline=None)
@given(timelines(), st.integers(1, 6), st.integers(0, 3), st.booleans())
def test_every_film_equals_its_closed_form(timeline, batch_size, num_workers, pad_batches):
    options = {"batch_size": batch_size, "pad_batches": pad_batches}
    executor = (
        ThreadedExecutor([LinearModel() for _ in range(num_workers)], **options)
        if num_workers
        else LocalExecutor(LinearModel(), **options)
    )
    with closing(executor):
        made = values(film(orchestrate(timeline, executor, pinned=pins_on_the_film(timeline))))
    np.testing.assert_allclose(made, closed_form(timeline), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(timelines(), st.integers(1, 6), st.sampled_from(["display", "level"]))
def test_run_makes_every_segment_once_in_its_order(timeline, batch_size, order):
    model = LinearModel()
    executor = LocalExecutor(model, batch_size=batch_size)
    orchestrator = orchestrate(timeline, executor, pinned=pins_on_the_film(timeline))
    runs = [(job, latents.clone()) for job, latents in orchestrator.run(order)]
    segments = [job.segment for job, _ in runs]
    assert model.num_runs == timeline.num_segments
    if order == "display":
        assert segments == list(timeline.display_order())
    else:
        assert sorted(segments, key=lambda s: (s.level, s.index)) == list(timeline.segments())
        if batch_size == 1:
            assert segments == list(timeline.segments())
    for job, latents in runs:
        expected = closed_form(timeline)[list(job.segment.frames)]
        np.testing.assert_allclose(latents[:, 0, 0, 0], expected, atol=1e-5)


def test_order_batch_size_and_workers_change_no_bit():
    films = []
    for order in ("display", "level"):
        for batch_size in (1, 3, 64):
            for num_workers in (1, 2):
                replicas = [LinearModel() for _ in range(num_workers)]
                with closing(ThreadedExecutor(replicas, batch_size=batch_size)) as executor:
                    store = MemoryStore(keep_released=True)
                    orchestrator = orchestrate(SMALL, executor, store)
                    assert len(list(orchestrator.run(order))) == 21
                    films.append(torch.stack(list(film(orchestrator).values())))
                assert sum(model.num_runs for model in replicas) == 21
    assert all(torch.equal(each, films[0]) for each in films)


def test_a_batch_fills_up_across_parents():
    model = LinearModel()
    values(film(orchestrate(SMALL, LocalExecutor(model, batch_size=4))))
    # 20 local segments are 5 full batches; one more where the tree begins, one where it ends.
    assert len(model.calls) - 1 <= 7


def test_level_0_is_never_in_one_batch_with_a_deeper_segment():
    timeline = Timeline(5, 3)  # 3 keyframes and 2 gaps of 3 frames: all of one length
    model = LinearModel()
    values(film(orchestrate(timeline, LocalExecutor(model, batch_size=8))))
    assert [[job.segment.level for job in call] for call in model.calls] == [[0], [1, 1]]


def test_given_frames_keep_every_bit_whatever_the_model_does_to_them():
    class Rounds(LinearModel):
        def generate(self, jobs, given_latents):
            return super().generate(jobs, given_latents).bfloat16()

    store = MemoryStore(keep_released=True)
    orchestrator = orchestrate(SMALL, LocalExecutor(Rounds(), batch_size=8), store)
    for job, latents in orchestrator.run("level"):
        for position, source in enumerate(job.sources):
            if source is not None:
                assert torch.equal(latents[position], store.get(source.key)[source.position])


# ---- Only what is missing and needed --------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(timelines(), st.data())
def test_a_frame_runs_exactly_its_ancestry(timeline, data):
    frame = data.draw(st.integers(0, timeline.num_frames - 1))
    model = LinearModel()
    made = film(
        orchestrate(timeline, model=model, pinned=pins_on_the_film(timeline)), frame, frame + 1
    )
    assert made[frame][0, 0, 0] == pytest.approx(closed_form(timeline)[frame], abs=1e-5)
    assert model.num_runs <= timeline.num_levels + len(timeline.pinned)
    if not timeline.pinned:
        assert model.num_runs <= timeline.num_levels


def test_random_access_in_a_million_frames_runs_one_segment_per_level():
    timeline = Timeline(1_000_000)
    model = LinearModel()
    made = film(orchestrate(timeline, model=model), 765_432, 765_433)
    assert 765_432 in made
    assert [call[0].segment.level for call in model.calls] == list(range(timeline.num_levels))


def test_a_dry_run_is_exact():
    model = LinearModel()
    orchestrator = orchestrate(SMALL, LocalExecutor(model, batch_size=4))
    forecast = list(orchestrator.missing(20, 40))
    assert model.num_runs == 0
    film(orchestrator, 20, 40)
    assert {job.key for job in forecast} == {job.key for call in model.calls for job in call}
    assert len(forecast) == model.num_runs == 1 + 2 + 5


def test_a_second_film_from_the_same_store_runs_nothing():
    store = MemoryStore(keep_released=True)
    first = film(orchestrate(SMALL, store=store))
    again = LinearModel()
    orchestrator = orchestrate(SMALL, store=store, model=again)
    assert list(orchestrator.missing()) == []
    assert torch.equal(
        torch.stack(list(film(orchestrator).values())), torch.stack([*first.values()])
    )
    assert again.num_runs == 0


def test_finished_leaves_need_no_ancestors():
    store = MemoryStore(keep_released=True)
    orchestrator = orchestrate(SMALL, store=store)
    whole = film(orchestrator)
    for level in (0, 1):
        for segment in SMALL.level(level):
            store.discard(orchestrator.job(segment).key)
    assert list(orchestrator.missing()) == []
    assert film(orchestrator).keys() == whole.keys()


def test_a_preview_is_the_beginning_of_the_film():
    store = MemoryStore(keep_released=True)
    model = LinearModel()
    orchestrator = orchestrate(SMALL, store=store, model=model)
    ((window, keyframes),) = orchestrator.windows(max_level=0)
    assert window.frames == SMALL.keyframes
    assert window.keep == 5
    np.testing.assert_allclose(
        keyframes[:, 0, 0, 0], [curve(frame / 8) for frame in SMALL.keyframes], atol=1e-6
    )
    assert model.num_runs == 1
    film(orchestrator)
    assert model.num_runs == 21


@settings(max_examples=12, deadline=None)
@given(timelines(), st.integers(0, 3))
def test_a_coarse_film_shows_each_frame_of_its_levels_once(timeline, max_level):
    levels = range(min(max_level, timeline.num_levels - 1) + 1)
    made_there = {f for level in levels for s in timeline.level(level) for f in s.new_frames}
    model = LinearModel()
    orchestrator = orchestrate(timeline, model=model, pinned=pins_on_the_film(timeline))
    shown = []
    for window, latents in orchestrator.windows(max_level=max_level):
        expected = closed_form(timeline)[list(window.frames)]
        np.testing.assert_allclose(latents[:, 0, 0, 0], expected, atol=1e-5)
        shown += window.frames[: window.keep]
    assert shown == sorted(set(shown))
    assert made_there <= set(shown) <= made_there | set(timeline.pinned)
    assert all(job.segment.level <= max_level for call in model.calls for job in call)


def test_a_range_of_a_coarse_film_runs_only_its_part():
    model = LinearModel()
    orchestrator = orchestrate(SMALL, model=model)
    windows = [window.frames for window, _ in orchestrator.windows(20, 40, max_level=1)]
    assert windows == [(16, 20, 24, 28, 32), (32, 36, 40, 44, 48)]
    assert model.num_runs == 3


# ---- Pinned frames --------------------------------------------------------------------------


def test_pinned_frames_are_given_and_come_out_as_they_are():
    timeline = Timeline(65, 5, pinned=(7, 32))
    pinned = {7: torch.rand(LATENT_SHAPE), 32: torch.rand(LATENT_SHAPE)}
    made = film(orchestrate(timeline, pinned=pinned))
    assert torch.equal(made[7], pinned[7])
    assert torch.equal(made[32], pinned[32])


def test_a_film_that_is_all_pinned_runs_nothing():
    timeline = Timeline(7, 3, pinned=tuple(range(7)))
    model = LinearModel()
    made = values(film(orchestrate(timeline, model=model, pinned=pins_on_the_film(timeline))))
    np.testing.assert_allclose(made, closed_form(timeline), atol=1e-6)
    assert model.num_runs == 0


def test_pinned_latents_must_be_those_of_the_timeline():
    with pytest.raises(ValueError, match=r"pinned frames \[3\], got \[4\]"):
        orchestrate(Timeline(9, pinned=(3,)), pinned={4: torch.zeros(LATENT_SHAPE)})
    with pytest.raises(ValueError, match=r"shape \(2, 1, 3\), got \(1, 1, 1\) at frame 3"):
        orchestrate(Timeline(9, pinned=(3,)), pinned={3: torch.zeros(1, 1, 1)})


# ---- Bounded memory -------------------------------------------------------------------------


@pytest.fixture
def unchecked_shapes():
    """For long films: the short ones have checked the shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("num_frames", "batch_size"), [(3_376, 1), (3_376, 8), (50_626, 8)])
def test_segments_in_memory_do_not_grow_with_the_film(num_frames, batch_size):
    store = RecordingStore()
    executor = LocalExecutor(LinearModel(value=lambda time: 0.0), batch_size=batch_size)
    orchestrator = orchestrate(Timeline(num_frames), executor, store)
    assert sum(window.keep for window, _ in orchestrator.windows()) == num_frames
    # Twice a batch of leaves in the look-ahead, their two parents, and the levels above.
    assert store.most_held <= 2 * batch_size + 2 + 2


def test_display_order_holds_little_and_level_order_all():
    held = {}
    for order in ("display", "level"):
        store = RecordingStore()
        for _ in orchestrate(SMALL, store=store).run(order):
            pass
        held[order] = store.most_held
    assert held["display"] <= 5
    assert held["level"] == 21


# ---- When something goes wrong --------------------------------------------------------------


@pytest.mark.parametrize("order", ["display", "level"])
def test_an_error_surfaces_and_finished_segments_stay(order):
    store = MemoryStore(keep_released=True)
    model = LinearModel()
    executor = FailingExecutor(model, batch_size=4, fails_at=3)
    with pytest.raises(ConnectionError, match="The device is gone"):
        list(orchestrate(SMALL, executor, store).run(order))
    num_kept = len(store)
    assert num_kept == model.num_runs > 1
    resumed = LinearModel()
    made = values(film(orchestrate(SMALL, store=store, model=resumed)))
    np.testing.assert_allclose(made, closed_form(SMALL), atol=1e-5)
    assert num_kept + resumed.num_runs == 21


def test_an_error_on_one_worker_keeps_what_the_other_makes():
    other_began = threading.Event()

    class Fails(LinearModel):
        def generate(self, jobs, given_latents):
            if jobs[0].segment.level == 1 and jobs[0].segment.index == 0:
                assert other_began.wait(5)
                raise ConnectionError("The device is gone.")
            if jobs[0].segment.level == 1:
                other_began.set()
            return super().generate(jobs, given_latents)

    store = MemoryStore()
    with closing(ThreadedExecutor([Fails(), Fails()], batch_size=1)) as executor:
        with pytest.raises(ConnectionError):
            list(orchestrate(SMALL, executor, store).run("level"))
        assert len(store) >= 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_closed_generator_leaves_whole_segments_and_a_free_executor(num_workers):
    models = [LinearModel() for _ in range(max(1, num_workers))]
    executor = (
        ThreadedExecutor(models, batch_size=2)
        if num_workers
        else LocalExecutor(models[0], batch_size=2)
    )
    with closing(executor):
        store = MemoryStore(keep_released=True)
        windows = orchestrate(SMALL, executor, store).windows()
        next(windows)
        windows.close()
        num_kept = len(store)
        assert num_kept == sum(model.num_runs for model in models) < 21
        made = values(film(orchestrate(SMALL, executor, store)))
    np.testing.assert_allclose(made, closed_form(SMALL), atol=1e-5)
    assert sum(model.num_runs for model in models) == 21


def test_the_first_window_does_not_wait_for_the_second_batch():
    model = LinearModel()
    windows = orchestrate(SMALL, LocalExecutor(model, batch_size=2)).windows()
    next(windows)
    assert [len(call) for call in model.calls] == [1, 1, 2]
    windows.close()


def test_on_segment_hears_of_each_run_as_it_ends():
    store = MemoryStore(keep_released=True)
    heard = []
    orchestrator = orchestrate(SMALL, store=store)
    list(orchestrator.run(on_segment=lambda job, latents: heard.append(job.segment)))
    assert heard == list(SMALL.display_order())
    list(orchestrator.run(on_segment=lambda job, latents: heard.append(job.segment)))
    assert len(heard) == 21


def test_a_segment_lost_from_the_store_is_named_by_its_frames():
    class Forgets(MemoryStore):
        def get(self, key):
            raise FrameMissingError(key)

    with pytest.raises(FrameMissingError, match=r"^Frames \[0, 16\] are not in the store"):
        list(orchestrate(SMALL, store=Forgets()).windows(0, 1))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`fps` must be greater than 0, got 0"):
        orchestrate(Timeline(1), story=Storyline.parse("a", duration=1), fps=0)
    with pytest.raises(ValueError, match="`max_level` must be at least 0, got -1"):
        list(orchestrate(SMALL).windows(max_level=-1))


def test_the_paper_s_film_runs_241_segments():
    model = LinearModel(value=lambda time: 0.0)
    orchestrator = orchestrate(PAPER, LocalExecutor(model, batch_size=16))
    assert sum(1 for _ in orchestrator.run()) == 241
    assert model.num_runs == 241
