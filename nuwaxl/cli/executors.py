"""`--executor` and `--workers`: where the runs happen."""

import sys
from typing import TYPE_CHECKING, Any

from nuwaxl.config import nearest

if TYPE_CHECKING:
    from nuwaxl.pipelines.long_video import ExecutorFactory
    from nuwaxl.tree.coarse_to_fine import Executor

EXECUTORS = ("local", "ray")
DEFAULT_BATCH = 8
"""Segments in one call of a worker's model on a CPU, unless the user says."""
FIRST_BATCH, MAX_BATCH = 16, 128
"""On an accelerator, where the measuring of batch sizes begins and ends."""


def executor_factory(name: str, workers: int, batch_size: int | None) -> "ExecutorFactory | None":
    """What makes the executor; None for the pipeline's own, in this thread.

    Args:
        name: one of `EXECUTORS`.
        workers: copies of the model.
        batch_size: segments in one call; None: 8 on a CPU, else found by measuring.

    Raises:
        ValueError: an unknown name, no worker, or Ray is not installed.
    """
    if name not in EXECUTORS:
        raise ValueError(
            f"`--executor` must be one of {', '.join(EXECUTORS)}, got {name!r}"
            f"{nearest(name, EXECUTORS)}"
        )
    if workers < 1:
        raise ValueError(f"`--workers` must be 1 or more, got {workers}.")

    def sizes_for(model: Any) -> tuple[int, int | None]:
        # Pretrained pipelines make one clip at a time.
        most = getattr(model, "max_batch_size", sys.maxsize)
        if batch_size is not None or model.device.type == "cpu":
            return min(batch_size or DEFAULT_BATCH, most), None
        return min(FIRST_BATCH, most), min(MAX_BATCH, most)

    if name == "ray":
        from importlib.util import find_spec

        if find_spec("ray") is None:
            raise ValueError("`--executor` ray needs Ray: pip install 'nuwaxl[ray]'.")

        def on_ray(model: Any) -> "Executor":
            from nuwaxl.executors.ray_cluster import RayExecutor

            size, most = sizes_for(model)
            return RayExecutor(model, num_workers=workers, batch_size=size, max_batch_size=most)

        return on_ray
    if workers == 1:
        return None

    def on_replicas(model: Any) -> "Executor":
        from nuwaxl.executors.local import ThreadedExecutor
        from nuwaxl.tensors.devices import devices_like

        devices = devices_like(model.device, workers)
        replicas = [model, *(model.replica(device) for device in devices[1:])]
        size, most = sizes_for(model)
        return ThreadedExecutor(replicas, batch_size=size, max_batch_size=most)

    return on_replicas
