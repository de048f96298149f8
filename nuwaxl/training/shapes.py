"""The networks of the stages and the shapes of their batches, from settings alone.

Knows settings and the small files that tell sizes (`config.json`); reads no weights and no data.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuwaxl.config import ConfigError
from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import backbone_class
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.models.latent_mover import LatentMover
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.models.scenery import SceneryModel
from nuwaxl.parts.lora import add_lora
from nuwaxl.training.autoencoder import AutoencoderTraining
from nuwaxl.training.clips import ClipsTraining
from nuwaxl.training.diffusion import DiffusionTraining, chosen_network
from nuwaxl.training.estimate import Step
from nuwaxl.training.estimator import EstimatorTraining
from nuwaxl.training.mover import MoverTraining
from nuwaxl.training.prompts import PromptsTraining
from nuwaxl.training.scenery import SceneryTraining

TOON_SIZE = 128
"""Pixels of the toon world's pictures, in both directions."""
_LONGEST_PROMPT = 77


def step_of(config: Any) -> Step:
    """A stage's network and its inputs.

    Args:
        config: of a stage.

    Raises:
        ConfigError: a size cannot be known before another stage has run.
    """
    if isinstance(config, DiffusionTraining):
        return _unet_step(config)
    if isinstance(config, EstimatorTraining):
        return _estimator_step(config)
    if isinstance(config, SceneryTraining):
        return _scenery_step(config)
    if isinstance(config, MoverTraining):
        return _mover_step(config)
    if isinstance(config, AutoencoderTraining):
        return _autoencoder_step(config)
    assert isinstance(config, PromptsTraining)
    return _adapter_step(config)


def _unet_step(config: DiffusionTraining) -> Step:
    channels, cells = _clip_latents(config)
    notes: list[str] = []
    known = _read(config.base)
    if config.base and known is None:
        notes.append(f"`base` {config.base!r} is not there: sizes are those of `model`")
    network_class, sizes = chosen_network(config)
    if known is not None:
        network_class, sizes = backbone_class(config.base), known
    sizes |= {"in_channels": channels, "out_channels": channels, "temporal": config.temporal}
    if config.scenery:
        sizes["sketched"] = True
    if config.estimator:
        sizes["estimator"] = _settings(config.estimator, "estimator", "its sizes")
    clips, frames = config.loop.batch_size, max(most for _, _, most in config.num_frames)
    tokens = sizes.get("num_prompt_tokens") or _adapter_tokens(config) or _LONGEST_PROMPT

    def build() -> nn.Module:
        network = network_class(**sizes)
        if sizes.get("estimator"):
            network.frame_estimator.requires_grad_(False)
        if config.lora.rank:
            add_lora(network, config.lora.rank, tuple(config.lora.targets))
        return network

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents = torch.zeros(clips, frames, channels, cells, cells)
        prompts = torch.zeros(clips, frames, tokens, sizes["cross_attention_dim"])
        return (latents, torch.zeros(clips, dtype=torch.long), prompts), {
            "frame_times": torch.zeros(clips, frames),
            "given_latents": latents,
            "conditioning_mask": torch.zeros(clips, frames),
            "sketches": latents,
            "return_dict": False,
        }

    samples = f"{clips} clips of {frames} frames, latents of {channels} x {cells} x {cells}"
    return Step(build, inputs, samples, tuple(notes))


def _estimator_step(config: EstimatorTraining) -> Step:
    channels, cells = _clip_latents(config)
    known, notes = _read(config.base), []
    if config.base and known is None:
        notes.append(f"`base` {config.base!r} is not there: sizes are those of `model`")
    tokens, width = _prompt_shape(config)
    mover = _read(config.mover)
    if known is None and mover is None:
        notes.append(f"`mover` {config.mover!r} is not there: its sizes are the defaults")
    sizes = known or asdict(config.model) | {
        "in_channels": channels, "prompt_dim": tokens * width, "mover": mover
    }  # fmt: skip
    clips, frames = config.loop.batch_size, max(most for _, _, most in config.num_frames)

    def build() -> nn.Module:
        return FrameEstimator(**sizes)

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents = torch.zeros(clips, frames, channels, cells, cells)
        mask, prompts = torch.zeros(clips, frames), torch.zeros(clips, frames, tokens, width)
        return (latents, mask, torch.zeros(clips, frames), prompts), {}

    samples = f"{clips} clips of {frames} frames, latents of {channels} x {cells} x {cells}"
    return Step(build, inputs, samples, tuple(notes))


def _scenery_step(config: SceneryTraining) -> Step:
    channels, cells = _clip_latents(config)
    tokens, width = _prompt_shape(config)
    most = max(most for _, _, most in config.num_frames)
    frames = config.loop.batch_size * most

    def build() -> nn.Module:
        sizes = {"in_channels": channels, "height": cells, "width": cells}
        return SceneryModel(prompt_dim=tokens * width, **sizes, **asdict(config.model))

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents = torch.zeros(frames, channels, cells, cells)
        return (latents, torch.zeros(frames, tokens * width), torch.zeros(frames)), {}

    return Step(build, inputs, f"{frames} latents of {channels} x {cells} x {cells}")


def _mover_step(config: MoverTraining) -> Step:
    channels, cells = _latents(config.vae, "vae", _picture_size(config.data.dataset))
    pictures = config.loop.batch_size

    def build() -> nn.Module:
        return LatentMover(in_channels=channels, **asdict(config.model))

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (torch.zeros(pictures, channels, cells, cells), torch.zeros(pictures, 2)), {}

    return Step(build, inputs, f"{pictures} latents of {channels} x {cells} x {cells}")


def _clip_latents(config: ClipsTraining) -> tuple[int, int]:
    """Channels of a stage's latents, and their cells along a side."""
    size = max(_picture_size(strips.dataset) for strips in config.strips.values())
    return _latents(config.conditioning.vae, "conditioning.vae", size)


def _latents(vae: str, name: str, size: int) -> tuple[int, int]:
    known = _settings(vae, name, "the size of latents")
    scale = known.get("patch_size", 1) * 2 ** (len(known["block_out_channels"]) - 1)
    return known["latent_channels"], size // scale


def _autoencoder_step(config: AutoencoderTraining) -> Step:
    model, known = config.model, _read(config.base)
    sizes = known or {
        "block_out_channels": tuple(model.block_out_channels),
        "layers_per_block": model.layers_per_block,
        "norm_num_groups": model.norm_num_groups,
        "patch_size": model.patch_size,
    }
    sizes |= {
        "latent_channels": model.latent_channels,
        "temporal_decoder": model.temporal_decoder,
    }
    sizes = {name: v for name, v in sizes.items() if name not in ("latents_mean", "latents_std")}
    note = f"`base` {config.base!r} is not there: sizes are those of `model`"
    notes = (note,) if config.base and known is None else ()
    clips, frames = config.loop.batch_size, config.data.frames_per_clip
    size = _picture_size(config.data.dataset)

    def build() -> nn.Module:
        network = TemporalAutoencoderKL(**sizes)
        if not config.train_encoder:
            network.encoder.requires_grad_(False)
        return _Rebuilt(network)

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (torch.zeros(clips, frames, 3, size, size),), {}

    return Step(build, inputs, f"{clips} clips of {frames} frames of {size} x {size}", notes)


class _Rebuilt(nn.Module):
    """An autoencoder that gives its pictures alone."""

    def __init__(self, network: TemporalAutoencoderKL) -> None:
        super().__init__()
        self.network = network
        self.enable_gradient_checkpointing: Callable[[], None] = (
            network.enable_gradient_checkpointing
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Pictures rebuilt."""
        return self.network(frames, sample_posterior=False)[0]


def _adapter_step(config: PromptsTraining) -> Step:
    encoder = _settings(config.text_encoder, "text_encoder", "the width of texts")
    width, prompts = encoder["hidden_size"], config.loop.batch_size

    def build() -> nn.Module:
        model = config.model
        return PromptAdapter(
            text_dim=width, dim=model.dim, num_tokens=model.num_tokens,
            num_layers=model.num_layers, heads=model.heads,
        )  # fmt: skip

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = torch.zeros(prompts, _LONGEST_PROMPT, width)
        return (hidden, torch.ones(prompts, _LONGEST_PROMPT, dtype=torch.long)), {}

    return Step(build, inputs, f"{prompts} captions of {_LONGEST_PROMPT} tokens")


def _picture_size(dataset: str) -> int:
    return PreparedDataset(dataset).size if dataset else TOON_SIZE


def _prompt_shape(config: ClipsTraining) -> tuple[int, int]:
    """Tokens of a prompt, and their width."""
    conditioning = config.conditioning
    width = (_read(conditioning.prompt_adapter) or {}).get("dim")
    if width is None:
        width = _settings(conditioning.text_encoder, "text_encoder", "the width")["hidden_size"]
    return _adapter_tokens(config) or _LONGEST_PROMPT, width


def _adapter_tokens(config: ClipsTraining) -> int | None:
    return (_read(config.conditioning.prompt_adapter) or {}).get("num_tokens")


def _settings(folder: str, name: str, what: str) -> dict[str, Any]:
    settings = _read(folder)
    if settings is None:
        raise ConfigError(
            f"`{name}` must be a folder with a config.json, which tells {what}, got {folder!r}: "
            "train it first, or put its config.json there; no weights are read."
        )
    return settings


def _read(folder: str) -> dict[str, Any] | None:
    """The arguments of a saved network, without what diffusers adds."""
    try:
        settings = json.loads((Path(folder or ".") / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: value for name, value in settings.items() if not name.startswith("_")}
