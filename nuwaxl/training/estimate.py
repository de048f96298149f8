"""What a training run will need, before it begins: memory of a process, and work per step.

Knows settings and shapes. The network is built and one step of it is taken on fake tensors, which
have shapes and no memory, so the paper's size is estimated on a laptop in seconds.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from nuwaxl.training.loop import LoopConfig
from nuwaxl.training.optimizers import is_hidden_matrix

# AdamW keeps two numbers for each weight that is learned, Muon one for each of a matrix.
_OPTIMIZER_NUMBERS = {"adamw": 2, "muon": 1}


@dataclass(frozen=True)
class Step:
    """A network and what it is given in a step."""

    build: Callable[[], nn.Module]
    """The network as it is trained; called where tensors are made on the meta device."""
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    """Arguments of one call for one process, fake as well."""
    samples: str
    """What they are, for people: '8 clips of 16 frames'."""
    notes: tuple[str, ...] = ()
    """What was not known and how it was taken instead."""


@dataclass(frozen=True)
class Estimate:
    """What one process needs; sizes in bytes."""

    samples: str
    num_processes: int
    num_parameters: int
    """Of the whole network."""
    num_learned: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    gathered: int
    """Whole weights of the largest part that is put together at once, with `loop.sharding=fsdp`."""
    activations: int
    """The most that forward and backward hold at once beside all that."""
    flops: int
    """Floating-point operations of one process in one optimizer step."""
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """All of it. Libraries and data come on top: about half a gigabyte."""
        held = self.weights + self.gradients + self.optimizer + self.averages
        return held + self.gathered + self.activations


def estimate(step: Step, config: LoopConfig, num_processes: int = 1) -> Estimate:
    """Take one step of a stage on fake tensors.

    Args:
        step: the network and its inputs.
        config: precision, accumulation, checkpointing and sharding count.
        num_processes: that train together.

    Raises:
        ValueError: `num_processes` is not positive.
    """
    if num_processes < 1:
        raise ValueError(f"`processes` must be 1 or more, got {num_processes}.")
    with torch.device("meta"):
        model = step.build()
    # On the CPU: fake tensors choose the same kernels and casts as real ones there.
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model)
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        arguments, keywords = step.inputs()
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        learned = list(named.values())
        kept = sum(_bytes_kept(name, weight, config.optimizer) for name, weight in named.items())
        for weight in learned:
            weight.grad = torch.zeros_like(weight)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)
        with FlopCounterMode(display=False) as flops, _LiveBytes() as live:
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                result = model(*arguments, **keywords)
                loss = torch.stack(
                    [part.float().square().mean() for part in _tensors(result)]
                ).sum()
            loss.backward()
        shares = num_processes if config.sharding == "fsdp" else 1
        bytes_learned = sum(weight.nbytes for weight in learned)
        return Estimate(
            samples=step.samples,
            num_processes=num_processes,
            num_parameters=sum(weight.numel() for weight in model.parameters()),
            num_learned=sum(weight.numel() for weight in learned),
            weights=sum(weight.nbytes for weight in model.parameters()) // shares,
            gradients=bytes_learned // shares,
            optimizer=kept // shares,
            averages=bytes_learned // shares,
            gathered=_largest_part(model) if shares > 1 else 0,
            activations=live.most,
            flops=flops.get_total_flops() * config.gradient_accumulation_steps,
            notes=step.notes,
        )


def _bytes_kept(name: str, weight: Tensor, optimizer: str) -> int:
    """What the optimizer keeps beside a weight."""
    kind = optimizer if is_hidden_matrix(name, weight) else "adamw"
    return _OPTIMIZER_NUMBERS[kind] * weight.nbytes


def _make_fake(model: nn.Module) -> None:
    """Fake tensors on the CPU for those on the meta device."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


class _LiveBytes(TorchDispatchMode):
    """Counts bytes of memory that operations made and nothing has freed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage in self._seen or id(storage) in known:
                continue
            size = storage.nbytes()
            self._seen[storage] = _Freed(self, size)
            self.now += size
            self.most = max(self.most, self.now)
        return result


class _Freed:
    """Lives as long as a storage, and tells when it goes."""

    def __init__(self, live: _LiveBytes, size: int) -> None:
        self._live, self._size = live, size

    def __del__(self) -> None:
        self._live.now -= self._size


def matmul_rate(precision: str, device: torch.device, *, seconds: float = 0.3) -> float:
    """Operations per second that a large matrix product reaches on a device now.

    Args:
        precision: 'bf16', 'fp16' or 'no'.
        device: to measure.
        seconds: how long to measure.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, dtype=dtype, device=device)
    (a @ a)[0, 0].item()  # the first product prepares kernels
    started, products = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        (a @ a)[0, 0].item()
        products += 1
    return products * 2 * size**3 / elapsed


def spell(needed: Estimate, config: LoopConfig, rate: float) -> Iterator[str]:
    """An estimate for people, line by line.

    Args:
        needed: what was found.
        config: of the loop.
        rate: operations per second of this device; see `matmul_rate`.
    """
    learned, whole = needed.num_learned / 1e6, needed.num_parameters / 1e6
    yield f"network: {whole:,.1f} M parameters, {learned:,.1f} M of them learned"
    together = "1 process" if needed.num_processes == 1 else f"{needed.num_processes} processes"
    micro = config.gradient_accumulation_steps
    times = f", {micro} times a step" if micro > 1 else ""
    yield f"a process takes: {needed.samples}{times}; {together}, {config.mixed_precision}"
    yield "memory of a process, in MB"
    for name in ("weights", "gradients", "optimizer", "averages", "gathered", "activations"):
        if size := getattr(needed, name):
            yield f"  {name:<12}{size / 1e6:>12,.1f}"
    yield f"  {'together':<12}{needed.memory / 1e6:>12,.1f}"
    yield f"work of a process: {needed.flops / 1e9:,.1f} GFLOP a step"
    seconds = needed.flops / rate
    yield (
        f"at {rate / 1e9:,.0f} GFLOP/s, which a matrix product reaches here: {seconds:,.3g} s a"
        f" step, {seconds * config.max_steps / 3600:,.2g} h for {config.max_steps:,} steps, at best"
    )
    for note in needed.notes:
        yield f"note: {note}"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _tensors(result: Any) -> list[Tensor]:
    """The floating-point tensors of a network's result that weights have a part in."""
    values = tree_leaves(result if not isinstance(result, dict) else list(result.values()))
    return [value for value in values if _is_tensor(value) and value.requires_grad]


def _largest_part(model: nn.Module) -> int:
    """Bytes of the whole weights that are there at once: the largest block, and what is in none."""
    whole = getattr(model, "_no_split_modules", None) or []
    blocks = [module for module in model.modules() if type(module).__name__ in whole]
    sizes = [sum(weight.nbytes for weight in block.parameters()) for block in blocks]
    rest = sum(weight.nbytes for weight in model.parameters()) - sum(sizes)
    return rest + max(sizes, default=0)
