"""Our U-Net against diffusers' `UNet3DConditionModel` at equal size, and against the GEMM rate.

python -m benchmarks.networks
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, gemm_rate
from nuwaxl.devices import autocast, fast_dtype
from nuwaxl.models.mask_unet3d import MaskUNet3D


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def best_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def peer_of(size: int) -> UNet3DConditionModel:
    """The 3-D U-Net of diffusers with about `size` parameters and attention at the same levels."""
    candidates = [
        UNet3DConditionModel(
            in_channels=16,
            out_channels=16,
            block_out_channels=(32 * a, 32 * b, 32 * c),
            down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
            up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
            layers_per_block=1,
            cross_attention_dim=256,
            attention_head_dim=8,
        )
        for a, b, c in ((1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4), (2, 4, 5), (2, 4, 6))
    ]
    return min(candidates, key=lambda unet: abs(parameters(unet) - size))


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    clips, frames = options.clips, 16
    ours = MaskUNet3D()
    peer = peer_of(parameters(ours))
    sample = torch.randn(clips, frames, 16, 8, 8)
    prompts = torch.randn(clips, frames, 8, 256)
    timesteps, times = torch.arange(clips), torch.arange(frames).expand(clips, -1) / 8.0

    def run_ours() -> torch.Tensor:
        return ours(sample, timesteps, prompts, frame_times=times).sample

    def run_peer() -> torch.Tensor:
        return peer(sample.transpose(1, 2), timesteps, prompts[:, 0]).sample

    dtype = fast_dtype("cpu")
    rate = gemm_rate(dtype)
    rows = {}
    for name, network, run in (("MaskUNet3D", ours, run_ours), ("diffusers", peer, run_peer)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()

        def forward(run: Callable = run) -> None:
            with torch.no_grad(), autocast(torch.device("cpu"), dtype):
                run()

        def step(run: Callable = run) -> None:
            with autocast(torch.device("cpu"), dtype):
                loss = run().float().square().mean()
            loss.backward()

        flops = counter.get_total_flops()
        forward_seconds, step_seconds = best_seconds(forward), best_seconds(step)
        rows[name] = {
            "parameters": parameters(network),
            "gflop_per_clip": round(flops / clips / 1e9, 2),
            "forward_ms_per_clip": round(forward_seconds / clips * 1e3, 1),
            "training_ms_per_clip": round(step_seconds / clips * 1e3, 1),
            "forward_share_of_gemm_rate": round(flops / forward_seconds / 1e9 / rate, 3),
        }
    mine, other = rows["MaskUNet3D"], rows["diffusers"]
    result = {
        "machine": describe(),
        "dtype": str(dtype),
        "gemm_gflops": round(rate),
        "networks": rows,
        "speedup_forward": round(other["forward_ms_per_clip"] / mine["forward_ms_per_clip"], 2),
        "speedup_training": round(other["training_ms_per_clip"] / mine["training_ms_per_clip"], 2),
    }
    print(json.dumps(result, indent=1))
    if options.output:
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
