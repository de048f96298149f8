"""Where a training run goes on from: weights, optimizer, averages and the number of steps.

Knows files and processes, not what is trained. A checkpoint is replaced whole, so a run that is
killed at any moment finds the one before.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from nuwaxl.config import ConfigError
from nuwaxl.training.sharding import divided_like


class Progress:
    """Number of steps done."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        """For accelerate."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """For accelerate."""
        self.step = state["step"]


@dataclass(frozen=True)
class Checkpoint:
    """The folder `checkpoint/` of a stage, and all that goes into it."""

    folder: Path
    """Of the stage."""
    accelerator: Accelerator
    model: nn.Module
    """As it is trained: divided, or known to `accelerator`."""
    optimizer: Any
    """accelerate's."""
    ema: EMAModel
    progress: Progress
    sharded: bool
    """Every process writes its part, and any number of processes reads it; else the first writes
    all."""

    def load(self) -> bool:
        """Go on from the checkpoint if there is one.

        Raises:
            ConfigError: it was written with another `loop.sharding`, `loop.optimizer` or network.
        """
        current = self._current()
        if self.accelerator.is_main_process and self._before.is_dir() and not current.is_dir():
            # Killed between the two renamings of `save`: the one before is whole.
            self._before.rename(current)
        self.accelerator.wait_for_everyone()
        if not current.is_dir():
            return False
        if self.sharded != (current / ".metadata").is_file():
            other = "none" if self.sharded else "fsdp"
            raise ConfigError(
                f"`{current}` was written with `loop.sharding={other}`: go on with that, in any "
                "number of processes, or name another `loop.output_dir`."
            )
        if self.sharded:
            self._load_parts(current)
        else:
            try:
                self.accelerator.load_state(str(current))
            except (ValueError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(
                    f"`{current}` was written with other settings, of the network or of"
                    f" `loop.optimizer`: go on with those, or name another `loop.output_dir`"
                    f" ({reason})."
                ) from error
        return True

    def save(self) -> None:
        """Replace the checkpoint."""
        current, fresh = self._current(), self.folder / "checkpoint.new"
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed while it saved
            fresh.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        if self.sharded:
            dcp.save(self._parts(), checkpoint_id=fresh, no_dist=not dist.is_initialized())
        else:
            self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(self._before, ignore_errors=True)
            if current.is_dir():
                current.rename(self._before)
            fresh.rename(current)
            shutil.rmtree(self._before, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    @property
    def _before(self) -> Path:
        return self.folder / "checkpoint.old"

    def _current(self) -> Path:
        return self.folder / "checkpoint"

    def _parts(self) -> dict[str, Any]:
        """All state by name; tensors are this process's parts of whole ones."""
        learned = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        averages = zip(learned.items(), self.ema.shadow_params, strict=True)
        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer.optimizer),
            "ema": {name: divided_like(weight, part) for (name, weight), part in averages},
            "ema_step": self.ema.optimization_step,
            "step": self.progress.step,
        }

    def _load_parts(self, folder: Path) -> None:
        parts = self._parts()
        # Into the tensors that are there, whatever number of processes wrote the parts.
        dcp.load(parts, checkpoint_id=folder, no_dist=not dist.is_initialized())
        set_optimizer_state_dict(
            self.model, self.optimizer.optimizer, optim_state_dict=parts["optimizer"]
        )
        self.ema.optimization_step = parts["ema_step"]
        self.progress.step = parts["step"]
