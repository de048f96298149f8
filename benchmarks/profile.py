"""Where a network's forward pass spends its time, and how far it is from a matrix product's rate.

python -m benchmarks.profile [--backbone transformer] [--compile]

Operators are grouped; each costs the median of its calls of one shape, so that a call which was
interrupted does not count. `--compile` adds torch.compile, which needs a C++ compiler and minutes.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, interleaved, product, save
from benchmarks.networks import BACKBONES, our_backbone
from nuwaxl.tensors.devices import autocast, fast_dtype

GROUPS: dict[str, tuple[str, ...]] = {
    "convolutions": ("convolution",),
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "linear", "attention"),
    "norms": ("native_group_norm", "native_layer_norm"),
    "activations": ("silu", "gelu", "_softmax"),
    "sums and scales": ("add", "add_", "mul", "mul_", "addcmul", "div", "sub"),
    "copies and casts": ("copy_", "cat", "clone", "_to_copy", "to", "contiguous", "fill_", "zero_"),
}
"""Names of operators; a name that holds one of the longer words counts too."""

REST = "dispatch and the rest"


def group_of(operator: str) -> str:
    """The group of an operator such as 'aten::addmm'."""
    name = operator.removeprefix("aten::")
    for group, names in GROUPS.items():
        if name in names or (group == "convolutions" and name.startswith("mkldnn_conv")):
            return group
        if group == "matrix products" and "attention" in name:
            return group
    return REST


class Pass:
    """One forward pass of the bundled size, as it is called by itself and as in a film."""

    def __init__(self, clips: int, backbone: str) -> None:
        frames, cells = 16, 8
        self.network = our_backbone(backbone, 32, num_prompt_tokens=5).eval()
        self.dtype = fast_dtype("cpu")
        self.sample = torch.randn(clips, frames, 32, cells, cells)
        mask = torch.zeros(clips, frames)
        mask[:, [0, -1]] = 1
        self.conditions: dict[str, Any] = {
            "encoder_hidden_states": torch.randn(clips, frames, 5, 256),
            "frame_times": torch.arange(frames).expand(clips, -1) / 8.0,
            "given_latents": self.sample * mask[:, :, None, None, None],
            "conditioning_mask": mask,
        }
        self.cache: dict[Any, Any] = {}

    @torch.no_grad()
    def alone(self, network: Callable[..., Any] | None = None) -> torch.Tensor:
        """Weights cast and conditions embedded in every call."""
        with autocast("cpu", self.dtype):
            return (network or self.network)(
                self.sample, torch.tensor([500]), **self.conditions, return_dict=False
            )[0]

    @torch.no_grad()
    def in_film(self) -> torch.Tensor:
        """As the sampling loop calls it: inside an open autocast, conditions embedded before."""
        return self.network(
            self.sample,
            torch.tensor([500]),
            **self.conditions,
            cache=self.cache,
            return_dict=False,
        )[0]


def operators(call: Callable[[], object], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds and calls of one pass by group of operators."""
    with record(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(rounds):
            call()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in recorded.events() or []:
        if event.name.startswith("aten::"):
            times[event.name, str(event.input_shapes)].append(event.self_cpu_time_total)
    groups: dict[str, dict[str, float]] = {
        name: {"ms": 0.0, "calls": 0} for name in (*GROUPS, REST)
    }
    for (name, _), values in times.items():
        group = groups[group_of(name)]
        group["ms"] += statistics.median(values) * len(values) / rounds / 1e3
        group["calls"] += len(values) / rounds
    return groups


def gflop_by_group(call: Callable[[], object]) -> dict[str, float]:
    """GFLOP of one pass by group of operators."""
    with FlopCounterMode(display=False) as counter:
        call()
    found: dict[str, float] = defaultdict(float)
    for operator, count in counter.get_flop_counts().get("Global", {}).items():
        name = str(operator).removeprefix("aten.").split(".")[0]
        group = "convolutions" if name == "convolution" else group_of(name)
        found[group] += count / 1e9
    return found


def compiled(forward: Pass, rounds: int) -> dict[str, float]:
    """torch.compile with frozen weights, beside the pass as it is."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    network = torch.compile(forward.network, dynamic=False)
    start = time.perf_counter()
    forward.alone(network)
    seconds = time.perf_counter() - start
    times = interleaved({"eager": forward.alone, "it": lambda: forward.alone(network)}, rounds)
    return {
        "compiling_seconds": round(seconds, 1),
        "times_faster": round(times["eager"] / times["it"], 2),
    }


def measure(backbone: str, clips: int, rounds: int, compile_it: bool) -> dict[str, Any]:
    """Times, shares and rates; see the module."""
    torch.manual_seed(0)
    forward = Pass(clips, backbone)
    multiply, gflop = product(forward.dtype)
    with autocast("cpu", forward.dtype):  # open, so that weights stay cast, as in a film
        forward.in_film()  # fills the cache: what is counted is one of the later steps
        counts = gflop_by_group(forward.in_film)
        seconds = interleaved({"product": multiply, "in a film": forward.in_film}, rounds)
        groups = operators(forward.in_film, rounds)
    seconds |= {
        f"{name}, own autocast": value
        for name, value in interleaved(
            {"product": multiply, "alone": forward.alone}, rounds
        ).items()
    }
    rate = gflop / seconds["product"]
    total = sum(group["ms"] for group in groups.values())
    for name, group in groups.items():
        counted = counts.get(name, 0.0)
        group["share"] = round(group["ms"] / total, 3)
        if counted and group["ms"]:
            group["share_of_gemm_rate"] = round(counted / (group["ms"] / 1e3) / rate, 3)
        group["ms"], group["calls"] = round(group["ms"], 2), round(group["calls"])
    whole = sum(counts.values())
    result: dict[str, Any] = {
        "backbone": backbone,
        "dtype": str(forward.dtype),
        "gemm_gflops": round(rate),
        "in_film_gflop_per_clip": round(whole / clips, 2),
        "alone_ms_per_clip": round(seconds["alone, own autocast"] / clips * 1e3, 2),
        "in_film_ms_per_clip": round(seconds["in a film"] / clips * 1e3, 2),
        "in_film_share_of_gemm_rate": round(whole / seconds["in a film"] / rate, 3),
        "operators": dict(sorted(groups.items(), key=lambda item: -item[1]["ms"])),
    }
    if compile_it:
        result["torch_compile"] = compiled(forward, rounds)
    return result


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=summary)
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--clips", type=int, default=4, help="clips in a batch")
    parser.add_argument("--rounds", type=int, default=9, help="passes to take the median of")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    if min(options.clips, options.rounds) < 1:
        parser.error("--clips and --rounds must be at least 1")
    command = f"python -m benchmarks.profile --backbone {options.backbone}"
    command += f" --clips {options.clips} --rounds {options.rounds}"
    command += " --compile" if options.compile else ""
    result = {
        "machine": describe(command),
        **measure(options.backbone, options.clips, options.rounds, options.compile),
    }
    print(json.dumps(result, indent=1))
    save(result, options.output)
    return result


if __name__ == "__main__":
    main()
