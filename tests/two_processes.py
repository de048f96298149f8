"""What `test_processes.py` runs: real processes that torch's launcher starts, joined by gloo.

The parent imports everything once; each launch forks two workers, as `torchrun` starts two.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.training.loop import LoopConfig, train
from nuwaxl.training.processes import first_process_first


class Small(nn.Module):
    """Two layers, called as the U-Net is."""

    _no_split_modules: ClassVar[list[str]] = ["Linear"]

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, sample: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor]:
        """The sample, its last axis through both layers."""
        return (self.outer(self.inner(sample).tanh()),)


class Denoise:
    """A stage on a tiny U-Net whose batches and noise are functions of the batch's number."""

    def __init__(self, *, small: bool = False, kill_at: int | None = None):
        torch.manual_seed(int(os.environ.get("RANK", 0)))  # the first process's weights must win
        self.model = Small() if small else MaskUNet3D(
            in_channels=4, out_channels=4, block_out_channels=(8, 16), attention_head_dim=8,
            norm_num_groups=4, cross_attention_dim=8, condition_channels=8,
            attention_levels=(False, False),
        )  # fmt: skip
        self.kill_at, self.calls = kill_at, 0
        self.held = 0

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Rows `index * batch_size` and following of an endless list."""
        rows = [torch.Generator().manual_seed(index * batch_size + i) for i in range(batch_size)]
        draw = [[torch.randn(3, 4, 4, 4, generator=row) for _ in range(2)] for row in rows]
        return {
            "latents": torch.stack([row[0] for row in draw]),
            "noise": torch.stack([row[1] for row in draw]),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict the noise."""
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.held = sum(_local(weight).numel() for weight in model.parameters())
        sample = batch["latents"] + batch["noise"]
        rows, frames = sample.shape[:2]
        prediction = model(
            sample, torch.full((rows,), 500), torch.ones(rows, frames, 2, 8),
            frame_times=torch.arange(frames).expand(rows, frames) / 8, return_dict=False,
        )[0]  # fmt: skip
        return (prediction - batch["noise"]).square().mean(), {}

    def save(self, folder: Path) -> None:
        """As a real stage does."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "weights.pt")


def _local(weight: Any) -> Tensor:
    return weight.to_local() if hasattr(weight, "to_local") else weight


def run(
    name: str,
    folder: str,
    changes: dict[str, Any],
    small: bool = False,
    kill_at: int | None = None,
) -> None:
    """Train, and write what this process saw."""
    values: dict[str, Any] = {
        "max_steps": 3, "batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 1, "log_every": 1,
        "mixed_precision": "no", "ema_decay": 0.5, "decay_fraction": 0.0,
    }  # fmt: skip
    if kill_at is not None:
        values["checkpoint_minutes"] = 0.0  # after every step
    torch.set_num_threads(1)
    stage, losses = Denoise(small=small, kill_at=kill_at), []
    output = Path(folder, name)
    train(
        stage,
        LoopConfig(output_dir=str(output), **(values | changes)),
        on_log=lambda row: losses.append(row["loss"]),
    )
    rank = os.environ.get("RANK", "0")
    seen = {"held": stage.held, "losses": losses, "weights": None}
    if not any(weight.is_meta for weight in stage.model.parameters()):
        seen["weights"] = sum(w.double().abs().sum().item() for w in stage.model.parameters())
    (output / f"seen_{rank}.json").write_text(json.dumps(seen))


def encode_once(folder: str) -> None:
    """What stages do with strips: write them unless they are there."""
    with first_process_first():
        strips = Path(folder, "strips.txt")
        if not strips.exists():
            time.sleep(0.2)  # long enough for the other to come first, if it did not wait
            with strips.open("a") as file:
                file.write(os.environ["RANK"])


def launch(processes: int, what: str | Callable[..., None], *arguments: Any) -> None:
    """As `torchrun --nproc-per-node` does it, by forks of this process."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, start_method="fork",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1,
        run_id=str(os.getpid()), max_restarts=0,
    )  # fmt: skip
    if callable(what):
        elastic_launch(config, what)(*arguments)
    else:
        elastic_launch(config, run)(what, *arguments)


def main(folder: str) -> None:
    """All runs that the tests look at."""
    fsdp = {"sharding": "fsdp"}
    doubled = {"batch_size": 4}
    launch(1, "one", folder, doubled)
    launch(2, "two", folder, {})
    _killed(lambda: launch(2, "two_killed", folder, {}, False, 2), folder, "two_killed")
    launch(2, "two_killed", folder, {})
    launch(2, "fsdp", folder, fsdp)
    launch(2, "small", folder, fsdp, True)
    _killed(lambda: launch(2, "small_killed", folder, fsdp, True, 2), folder, "small_killed")
    # What two processes began, and one of them did not survive, one alone brings to its end.
    launch(1, "small_killed", folder, fsdp | doubled, True)
    launch(2, encode_once, folder)
    try:
        launch(1, "small", folder, {}, True)
    except Exception as error:
        Path(folder, "small", "refused.txt").write_text(str(error))


def _killed(start: Callable[[], None], folder: str, name: str) -> None:
    """Start a run that kills itself in its second step, after the first was saved."""
    try:
        start()
    except ChildFailedError:  # of the one that was killed, or of the one that lost it
        if not Path(folder, name, "model").exists():
            return
    raise AssertionError("the run was to be killed")


if __name__ == "__main__":
    main(sys.argv[1])
