"""The training loop that every stage shares: accelerate, EMA, checkpoints, exact resume.

Knows steps and gradients, not what is trained: a `Stage` hands it a loss.
"""

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from nuwaxl.config import ConfigError
from nuwaxl.training.checkpoints import Checkpoint, Progress
from nuwaxl.training.optimizers import make_optimizer
from nuwaxl.training.processes import join_processes
from nuwaxl.training.sharding import fill, own_part, shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast a stage learns, and where its files go."""

    output_dir: str = "out/train"
    """Folder of the stage: `checkpoint/` (to resume), `model/` (EMA weights), `log/`."""
    max_steps: int = 1000
    """Optimizer steps in total; a resumed run goes on to this number."""
    batch_size: int = 32
    """Samples per process and step."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step."""
    optimizer: str = "adamw"
    """'adamw', or 'muon': orthogonal steps for hidden layers' matrices, AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak of the schedule: warm-up, constant, then linear decay to zero."""
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    """Last part of `max_steps` over which the learning rate falls to zero."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "bf16"
    """'bf16', 'fp16' (CUDA) or 'no'."""
    seed: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 10.0
    max_minutes: float = 0.0
    """Stop (with a checkpoint) after this many minutes of this process; 0: no limit."""
    num_threads: int = 0
    """CPU threads of this process; 0: torch's choice."""
    gradient_checkpointing: bool = False
    """Compute activations again when they are needed, instead of keeping them."""
    sharding: str = "none"
    """'none': each process holds all weights. 'fsdp': each holds its part of weights, gradients,
    optimizer state and averages."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be trained with."""
        for name in ("max_steps", "batch_size", "gradient_accumulation_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`loop.{name}` must be at least 1, got {getattr(self, name)}.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ValueError(
                f"`loop.mixed_precision` must be no, bf16 or fp16, got {self.mixed_precision!r}."
            )
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"`loop.optimizer` must be adamw or muon, got {self.optimizer!r}.")
        if self.optimizer == "muon" and self.sharding == "fsdp":
            raise ValueError(
                "`loop.optimizer` must be adamw with `loop.sharding=fsdp`, got 'muon', which needs"
                " whole matrices."
            )
        if self.sharding not in ("none", "fsdp"):
            raise ValueError(f"`loop.sharding` must be none or fsdp, got {self.sharding!r}.")
        if self.sharding == "fsdp" and self.mixed_precision == "fp16":
            raise ValueError(
                "`loop.mixed_precision` must be bf16 or no with `loop.sharding=fsdp`, got 'fp16'."
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimizer step `step` (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.max_steps - step) / max(1.0, self.decay_fraction * self.max_steps)
        return self.learning_rate * min(warm, left, 1.0)


@runtime_checkable
class Stage(Protocol):
    """What is learned in a stage."""

    @property
    def model(self) -> nn.Module:
        """The network whose weights are learned."""
        ...

    def batch(self, index: int, batch_size: int) -> Any:
        """Batch number `index`, a pure function of the stage's seed and `index`."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (its randomness comes from torch's global generator) and what to log."""
        ...

    def save(self, folder: Path) -> None:
        """Write `self.model`, whose weights are now the averaged ones, as others load it."""
        ...


def train(
    stage: Stage, config: LoopConfig, *, on_log: Callable[[dict[str, float]], None] | None = None
) -> int:
    """Train `stage` up to `config.max_steps`, going on from its checkpoint when there is one.

    Batches and noise of a step depend on the seed and the step alone, so a run that was killed
    goes on as if it had not been.

    Args:
        stage: what is learned.
        config: how.
        on_log: called with each logged row.

    Returns:
        Optimizer steps done in total.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    folder = Path(config.output_dir)
    accelerator = _accelerator(config)
    set_seed(config.seed)
    if config.gradient_checkpointing:
        stage.model.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    sharded = config.sharding == "fsdp"
    network = shard(stage.model, accelerator.device) if sharded else stage.model
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer: Any = make_optimizer(
        config.optimizer, network, config.learning_rate, config.weight_decay
    )
    # Of this process's parts: averages are taken number by number.
    parts: list[Any] = [own_part(weight) for weight in weights]
    ema = EMAModel(parts, decay=config.ema_decay, foreach=True)
    ema.to(accelerator.device)
    # A divided network averages its gradients itself: only the precision is accelerate's.
    model = accelerator.prepare_model(network, evaluation_mode=sharded)
    optimizer = accelerator.prepare_optimizer(optimizer)
    progress = Progress()
    accelerator.register_for_checkpointing(ema, progress)
    checkpoint = Checkpoint(
        folder, accelerator, network if sharded else model, optimizer, ema, progress, sharded
    )
    if checkpoint.load():
        logger.info("going on from step %d", progress.step)
    _steps(stage, config, accelerator, model, optimizer, weights, checkpoint, on_log)
    if sharded:
        names = [name for name, weight in network.named_parameters() if weight.requires_grad]
        fill(stage.model, network, dict(zip(names, ema.shadow_params, strict=True)))
    else:
        ema.store(weights)
        ema.copy_to(weights)
    if accelerator.is_main_process:
        stage.save(folder / "model")  # the live weights are in the checkpoint
    if not sharded:
        ema.restore(weights)
    return progress.step


def _accelerator(config: LoopConfig) -> Accelerator:
    """This process among the others, in the precision that was asked for.

    Raises:
        ConfigError: this device has no such precision.
    """
    device: Any = join_processes().device
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "`loop.mixed_precision=fp16` needs a GPU, and this is a CPU: take bf16 or no."
        )
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )


def _steps(
    stage: Stage,
    config: LoopConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    weights: list[nn.Parameter],
    checkpoint: Checkpoint,
    on_log: Callable[[dict[str, float]], None] | None,
) -> None:
    """The loop itself."""
    progress, ema = checkpoint.progress, checkpoint.ema
    start = saved = logged = _time_of_main_process(accelerator)
    logged_step = progress.step
    sums: dict[str, Any] = {}  # tensors: reading one would wait for the device at every step
    fetch = ThreadPoolExecutor(1)
    upcoming = fetch.submit(_fetch, stage, config, accelerator, progress.step, 0)
    with fetch, _Log(checkpoint.folder, accelerator.is_main_process) as log:
        while progress.step < config.max_steps:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(progress.step)
            for micro in range(config.gradient_accumulation_steps):
                batch = upcoming.result()
                last = micro + 1 == config.gradient_accumulation_steps
                following = (progress.step + 1, 0) if last else (progress.step, micro + 1)
                upcoming = fetch.submit(_fetch, stage, config, accelerator, *following)
                torch.manual_seed(_seed(config, accelerator, progress.step, micro))
                with accelerator.accumulate(model), accelerator.autocast():
                    loss, extra = stage.loss(model, batch)
                    accelerator.backward(loss)
                for name, value in {"loss": loss.detach(), **extra}.items():
                    sums[name] = sums.get(name, 0.0) + value / config.gradient_accumulation_steps
            if accelerator.sync_gradients and config.max_grad_norm:
                accelerator.clip_grad_norm_(weights, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            parts: list[Any] = [own_part(weight) for weight in weights]
            ema.step(parts)
            progress.step += 1
            if progress.step % config.log_every == 0:
                now = _time_of_main_process(accelerator)
                steps = progress.step - logged_step
                row = _mean_of_processes(sums, steps, accelerator)
                row["learning_rate"] = config.learning_rate_at(progress.step - 1)
                row["seconds_per_step"] = (now - logged) / steps
                sums, logged, logged_step = {}, now, progress.step
                log.write(progress.step, row)
                if on_log is not None and accelerator.is_main_process:
                    on_log({"step": progress.step, **row})
                stop = bool(config.max_minutes) and now - start > 60 * config.max_minutes
                if stop or now - saved > 60 * config.checkpoint_minutes:
                    checkpoint.save()
                    saved = now
                if stop:
                    return
        checkpoint.save()


def _time_of_main_process(accelerator: Accelerator) -> float:
    """Seconds, the same on every process, so that all of them stop and save at one step."""
    return (
        float(broadcast_object_list([time.monotonic()])[0])
        if accelerator.num_processes > 1
        else time.monotonic()
    )


def _mean_of_processes(
    sums: dict[str, Any], steps: int, accelerator: Accelerator
) -> dict[str, float]:
    """Sums over `steps` to means over them and over all processes."""
    values = torch.stack([torch.as_tensor(value).float() for value in sums.values()]) / steps
    means: Any = accelerator.reduce(values.to(accelerator.device), "mean")
    return dict(zip(sums, means.tolist(), strict=True))


def _seed(config: LoopConfig, accelerator: Accelerator, step: int, micro: int) -> int:
    """A seed of this batch's own."""
    return config.seed * 1_000_003 + _batch_number(config, accelerator, step, micro)


def _fetch(
    stage: Stage, config: LoopConfig, accelerator: Accelerator, step: int, micro: int
) -> Any:
    """This process's batch, on its device."""
    batch = stage.batch(_batch_number(config, accelerator, step, micro), config.batch_size)
    return {
        name: value.to(accelerator.device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _batch_number(config: LoopConfig, accelerator: Accelerator, step: int, micro: int) -> int:
    """Which batch this process takes: P processes take those of one that accumulates P."""
    number = step * config.gradient_accumulation_steps + micro
    return number * accelerator.num_processes + accelerator.process_index


class _Log:
    """Curves as JSON lines, and for tensorboard when it is installed."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.folder, self.active, self.board = folder / "log", active, None

    def __enter__(self) -> "_Log":
        if self.active:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(self.folder))
            except ImportError:
                logger.info(
                    "tensorboard is not installed: curves go to %s only", self.folder / "log.jsonl"
                )
        return self

    def write(self, step: int, row: dict[str, float]) -> None:
        if not self.active:
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()
