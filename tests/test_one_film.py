"""One film, whatever the order, the batch size and the number of workers: a tiny model's pixels."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from orders import ORDERS, make_in
from tiny import tiny_pipeline

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.executors.local import LocalExecutor, ThreadedExecutor
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.stores.store import MemoryStore
from nuwaxl.tree.coarse_to_fine import Executor

BATCH_SIZES = (1, 4, 16)


@pytest.fixture(scope="module")
def pipeline() -> LongVideoPipeline:
    return tiny_pipeline()


def film(
    pipeline: LongVideoPipeline, order: str, batch_size: int, workers: int, *, pad_batches: bool
) -> np.ndarray:
    def executor(model) -> Executor:
        options = {"batch_size": batch_size, "pad_batches": pad_batches}
        if workers == 1:
            return LocalExecutor(model, **options)
        return ThreadedExecutor([model.replica("cpu") for _ in range(workers)], **options)

    with pipeline.film(
        ["a dog runs", "a cat walks"],
        28,  # in runs of 4 frames: 1 + 3 + 9
        fps=8,
        sampling=SamplingConfig(num_inference_steps=1),
        store=MemoryStore(keep_released=True),
        executor=executor,
    ) as made:
        make_in(order, made)
        return np.stack(list(made.frames()))


def largest_difference(films: Sequence[np.ndarray]) -> int:
    return max(int(np.abs(films[0].astype(int) - each).max()) for each in films)


def test_in_batches_of_one_shape_no_order_and_no_number_of_workers_changes_a_bit(pipeline):
    """Each order meets each batch size and each number of workers, and these each other."""
    films: dict[int, list[np.ndarray]] = {size: [] for size in BATCH_SIZES}
    for at, (order, size) in enumerate(itertools.product(ORDERS, BATCH_SIZES)):
        workers = 1 + (at + at // 3) % 3
        films[size].append(film(pipeline, order, size, workers, pad_batches=True))
    for made in films.values():
        assert largest_difference(made) == 0
    # Matrix products add up in another order for another number of rows: one of 255 at most.
    assert largest_difference([made[0] for made in films.values()]) <= 1


def test_batches_as_they_come_change_a_pixel_by_one_of_255_at_most(pipeline):
    films = [
        film(pipeline, order, size, workers, pad_batches=False)
        for order, size, workers in (("display", 1, 1), ("level", 4, 3), ("random", 16, 2))
    ]
    assert largest_difference(films) <= 1
