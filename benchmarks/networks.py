"""Our networks beside others of the same size, and beside the rate of a matrix product.

python -m benchmarks.networks

U-Nets have equal parameters and input, decoders an equal size of pictures; our transformer, of
about as many parameters and operations, stands beside them. All take turns in one run, and medians
are compared, so that ratios are fair on a machine that is not quite idle.
"""

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet3DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, interleaved, product, save
from nuwaxl.data.strips import StripsConfig
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.training.diffusion import DiffusionTraining, chosen_network

CHANNELS, CELLS, FRAMES, PROMPT_DIM = 16, 8, 16, 256
BACKBONES = ("unet", "transformer")
"""As `train` names them."""
PICTURE = 128
"""Side of the decoded pictures, in pixels."""

MISSING = (
    "lucidrains' Unet3D is left out: it needs `pip install 'nuwaxl[bench]'` and then"
    " `pip install --no-deps video-diffusion-pytorch==0.7.0` (else it brings torchvision)."
)

CPU = torch.device("cpu")


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def nearest(size: int, candidates: Sequence[Callable[[], nn.Module]]) -> nn.Module:
    """Of several networks the one whose number of parameters is nearest to `size`."""
    sizes = []
    for build in candidates:
        with torch.device("meta"):
            sizes.append(abs(parameters(build()) - size))
    return candidates[sizes.index(min(sizes))]()


def our_backbone(backbone: str, channels: int, *, num_prompt_tokens: int | None = None) -> Any:
    """One of `BACKBONES` at the sizes that training takes by itself.

    Args:
        backbone: of `BACKBONES`.
        channels: of the latents.
        num_prompt_tokens: of the prompt adapter; None: prompts of any length.
    """
    config: Any = {"backbone": backbone, "strips": {"any": StripsConfig()}}
    network, sizes = chosen_network(DiffusionTraining(**config))
    sizes["num_prompt_tokens"] = num_prompt_tokens
    return network(in_channels=channels, out_channels=channels, **sizes)


def diffusers_unet(size: int) -> nn.Module:
    """The 3-D U-Net of diffusers, attention at the same resolutions as ours."""

    def build(widths: Any) -> Callable[[], nn.Module]:
        down: Any = ("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D")
        up: Any = ("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D")
        channels: Any = tuple(32 * width for width in widths)
        return lambda: UNet3DConditionModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=channels,
            down_block_types=down,
            up_block_types=up,
            layers_per_block=1,
            cross_attention_dim=PROMPT_DIM,
            attention_head_dim=8,
        )

    widths = ((1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4), (2, 4, 5), (2, 4, 6))
    return nearest(size, [build(each) for each in widths])


def lucidrains_unet(size: int) -> nn.Module:
    """The U-Net of video-diffusion-pytorch (MIT), which sees one vector for a prompt.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec("video_diffusion_pytorch") is None:
        raise ModuleNotFoundError(MISSING)
    # Its module imports torchvision to read videos, which nothing here does.
    stand_in: Any = types.ModuleType("torchvision")
    stand_in.transforms, stand_in.utils = types.SimpleNamespace(ToTensor=object), None
    had = sys.modules.get("torchvision")
    sys.modules["torchvision"] = had or stand_in
    try:
        from video_diffusion_pytorch.video_diffusion_pytorch import Unet3D
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{MISSING} Not found now: {error.name}.") from None
    finally:
        if had is None:
            del sys.modules["torchvision"]

    def build(dim: int) -> Callable[[], nn.Module]:
        return lambda: Unet3D(
            dim,
            cond_dim=PROMPT_DIM,
            out_dim=CHANNELS,
            channels=CHANNELS,
            dim_mults=(1, 2, 3),
            init_kernel_size=3,
        )

    return nearest(size, [build(dim) for dim in range(32, 129, 8)])


def backbones(
    clips: int,
) -> tuple[dict[str, tuple[nn.Module, Callable[[], torch.Tensor]]], list[str]]:
    """Each network with its forward pass on one batch of clips, and what could not be had."""
    ours, transformer = (our_backbone(name, CHANNELS) for name in BACKBONES)
    size = parameters(ours)
    peer = diffusers_unet(size)
    sample = torch.randn(clips, FRAMES, CHANNELS, CELLS, CELLS)
    prompts = torch.randn(clips, FRAMES, 8, PROMPT_DIM)
    timesteps, times = torch.arange(clips), torch.arange(FRAMES).expand(clips, -1) / 8.0
    channels_first = sample.transpose(1, 2)
    found: dict[str, tuple[nn.Module, Callable[[], torch.Tensor]]] = {
        "MaskUNet3D": (ours, lambda: ours(sample, timesteps, prompts, frame_times=times).sample),
        "MaskTransformer3D": (
            transformer,
            lambda: transformer(sample, timesteps, prompts, frame_times=times).sample,
        ),
        "diffusers UNet3DConditionModel": (
            peer,
            lambda: peer(channels_first, timesteps, prompts[:, 0]).sample,
        ),
    }
    try:
        other = lucidrains_unet(size)
    except ModuleNotFoundError as error:
        return found, [str(error)]
    found["lucidrains Unet3D"] = (
        other,
        lambda: other(channels_first, timesteps, cond=prompts[:, 0].mean(dim=1)),
    )
    return found, []


def compare_backbones(clips: int, rounds: int) -> dict[str, Any]:
    """Forward pass and training step of each, a matrix product taking its turn."""
    networks, left_out = backbones(clips)
    gflops: dict[str, float] = {}
    for name, (_, run) in networks.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        gflops[name] = counter.get_total_flops() / 1e9
    dtype = fast_dtype(CPU)
    multiply, gflop = product(dtype)
    forwards: dict[str, Callable[[], object]] = {"product": multiply}
    steps: dict[str, Callable[[], object]] = {}
    for name, (network, run) in networks.items():

        def step(run: Callable[[], torch.Tensor] = run, network: nn.Module = network) -> None:
            network.zero_grad(set_to_none=True)
            with autocast(CPU, dtype):
                loss = run().float().square().mean()
            loss.backward()

        forwards[f"forward {name}"], steps[f"step {name}"] = run, step
    # One open autocast: each network's weights are cast once, as a sampler does it.
    with torch.no_grad(), autocast(CPU, dtype):
        seconds = interleaved(forwards, rounds)
    seconds |= interleaved(steps, rounds)
    rate = gflop / seconds["product"]
    rows = {}
    for name, (network, _) in networks.items():
        one, both = seconds[f"forward {name}"], seconds[f"step {name}"]
        rows[name] = {
            "parameters": parameters(network),
            "gflop_per_clip": round(gflops[name] / clips, 2),
            "forward_ms_per_clip": round(one / clips * 1e3, 2),
            "training_ms_per_clip": round(both / clips * 1e3, 2),
            "forward_share_of_gemm_rate": round(gflops[name] / one / rate, 3),
            "forward_times_ours": round(one / seconds["forward MaskUNet3D"], 2),
            "training_times_ours": round(both / seconds["step MaskUNet3D"], 2),
        }
    return {"dtype": str(dtype), "gemm_gflops": round(rate), "networks": rows, "left_out": left_out}


def image_vae(latent_channels: int, widths: Any, *, layers: int) -> Any:
    """An autoencoder of diffusers with the usual blocks."""
    down: Any = ("DownEncoderBlock2D",) * len(widths)
    up: Any = ("UpDecoderBlock2D",) * len(widths)
    vae = AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=layers,
    )
    return vae.eval()


def decoders() -> dict[str, tuple[nn.Module, Callable[[], torch.Tensor], int]]:
    """Each decoder with a call that makes pictures of one size, and how many it makes.

    Two pictures at once of Stable Diffusion's, which takes fifty times the work of ours.
    """
    ours: Any = TemporalAutoencoderKL(latent_channels=32, patch_size=4).eval()
    small = image_vae(16, (64, 128, 192), layers=1)
    large = image_vae(4, (128, 256, 512, 512), layers=2)
    tiny: Any = AutoencoderTiny().eval()
    window = torch.randn(1, FRAMES, 32, PICTURE // 16, PICTURE // 16)
    quarter = torch.randn(4, 16, PICTURE // 4, PICTURE // 4)
    eighth = torch.randn(FRAMES, 4, PICTURE // 8, PICTURE // 8)
    return {
        "T-KLVAE": (ours, lambda: ours.decode_latents(window), FRAMES),
        "AutoencoderTiny": (tiny, lambda: tiny.decode(eighth).sample, FRAMES),
        "AutoencoderKL, our widths": (small, lambda: small.decode(quarter).sample, 4),
        "AutoencoderKL, Stable Diffusion": (large, lambda: large.decode(eighth[:2]).sample, 2),
    }


def compare_decoders(rounds: int) -> dict[str, Any]:
    """Milliseconds to decode one picture with each."""
    dtype = fast_dtype(CPU)
    networks = decoders()
    calls: dict[str, Callable[[], object]] = {}
    for name, (_, run, _) in networks.items():

        def decode(run: Callable[[], torch.Tensor] = run) -> None:
            with torch.no_grad(), autocast(CPU, dtype):
                run()

        calls[name] = decode
    seconds = interleaved(calls, rounds)
    rows = {}
    for name, (network, run, pictures) in networks.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            pixels = run()
        assert pixels.shape[-2:] == (PICTURE, PICTURE)
        rows[name] = {
            "parameters": parameters(network),
            "gflop_per_frame": round(counter.get_total_flops() / pictures / 1e9, 2),
            "decode_ms_per_frame": round(seconds[name] / pictures * 1e3, 2),
            "decode_times_ours": round(seconds[name] / pictures / (seconds["T-KLVAE"] / FRAMES), 2),
        }
    return {"picture": PICTURE, "decoders": rows}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=summary)
    parser.add_argument("--clips", type=int, default=4, help="clips in a batch")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every network")
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    if min(options.clips, options.rounds) < 1:
        parser.error("--clips and --rounds must be at least 1")
    torch.manual_seed(0)
    command = f"python -m benchmarks.networks --clips {options.clips} --rounds {options.rounds}"
    result = {
        "machine": describe(command),
        **compare_backbones(options.clips, options.rounds),
        **compare_decoders(options.rounds),
    }
    for line in result["left_out"]:
        print(line, file=sys.stderr)
    print(json.dumps(result, indent=1))
    save(result, options.output)
    return result


if __name__ == "__main__":
    main()
