"""What a model costs: weights, memory, operations, from the sizes of its parts alone.

Knows networks, not films. They are built on the meta device, where tensors have shapes and no
values, so no weights are read and the paper's size takes seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import BACKBONES
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.models.scenery import SceneryModel
from nuwaxl.parts.sizes import ModelParts

_MOST_PROMPT_TOKENS = 77
"""What a network attends to without a prompt adapter, as `nuwaxl.denoising.text` has it."""


@dataclass(frozen=True)
class PartCost:
    """One part of a pipeline."""

    name: str
    kind: str
    """Its class."""
    parameters: int
    bytes_float32: int
    """Memory of its weights."""
    bytes_float16: int
    """The same in float16 or bfloat16."""


@dataclass(frozen=True)
class ModelCosts:
    """A pipeline's parts and what they do in one call. Operations count additions and products."""

    parts: tuple[PartCost, ...]
    segment_length: int
    height: int
    width: int
    flops_global: int
    """One forward pass over a full run, without guidance, which doubles it."""
    flops_local: int
    flops_decode: int
    """The pictures of a full run."""
    flops_prompt: int
    """One prompt's embedding."""


def model_costs(parts: ModelParts) -> ModelCosts:
    """Build every part on the meta device and run it once there.

    Args:
        parts: sizes that fit each other.

    Raises:
        ValueError: a part is of an unknown class, or its settings are none that it can have.
    """
    networks: dict[str, Any] = {"global_unet": _network("global_unet", parts.global_unet)}
    alike = parts.network("local_unet") == parts.global_unet
    networks["local_unet"] = (
        networks["global_unet"] if alike else _network("local_unet", parts.local_unet)
    )
    vae = _built("vae", lambda: TemporalAutoencoderKL(**_arguments(parts.vae)))
    networks["vae"] = vae
    networks["text_encoder"] = encoder = _built(
        "text_encoder", lambda: _text_encoder(parts.text_encoder)
    )
    num_tokens = min(
        parts.text_encoder.get("max_position_embeddings", _MOST_PROMPT_TOKENS), _MOST_PROMPT_TOKENS
    )
    ids = torch.zeros(1, num_tokens, dtype=torch.long, device="meta")
    flops_prompt = _flops(lambda: encoder(input_ids=ids))
    if parts.prompt_adapter:
        networks["prompt_adapter"] = adapter = _built(
            "prompt_adapter", lambda: PromptAdapter(**_arguments(parts.prompt_adapter))
        )
        hidden = torch.zeros(1, num_tokens, parts.text_encoder["hidden_size"], device="meta")
        flops_prompt += _flops(lambda: adapter(hidden))
        num_tokens = len(adapter.queries)
    if parts.scenery:
        networks["scenery"] = _built("scenery", lambda: SceneryModel(**_arguments(parts.scenery)))
    latents = torch.zeros(1, parts.segment_length, *parts.latent_shape, device="meta")
    return ModelCosts(
        parts=tuple(_part_cost(name, network) for name, network in networks.items()),
        segment_length=parts.segment_length,
        height=parts.height,
        width=parts.width,
        flops_global=_forward_flops(networks["global_unet"], latents, num_tokens),
        flops_local=_forward_flops(networks["local_unet"], latents, num_tokens),
        flops_decode=_flops(lambda: vae.decode_latents(latents)),
        flops_prompt=flops_prompt,
    )


def _network(role: str, settings: Mapping[str, Any]) -> nn.Module:
    name = settings.get("_class_name", "MaskUNet3D")
    if name not in BACKBONES:
        raise ValueError(f"`{role}` must be a {' or a '.join(BACKBONES)}, got {name!r}.")
    return _built(role, lambda: BACKBONES[name](**_arguments(settings)))


def _text_encoder(settings: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    sizes = {name: value for name, value in settings.items() if name != "model_type"}
    config = AutoConfig.for_model(settings.get("model_type", "clip_text_model"), **sizes)
    return AutoModel.from_config(config)


def _built(part: str, build: Callable[[], Any]) -> Any:
    try:
        with torch.device("meta"):
            return build().eval().requires_grad_(False)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"`{part}` cannot be built: {' '.join(str(error).split())}") from error


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _forward_flops(network: Any, latents: torch.Tensor, num_tokens: int) -> int:
    batch, frames = latents.shape[:2]
    dim = network.config["cross_attention_dim"]
    prompts = torch.zeros(batch, frames, num_tokens, dim, device="meta")
    times = torch.zeros(batch, frames, device="meta")
    return _flops(lambda: network(latents, 0, prompts, frame_times=times))


def _flops(run: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _part_cost(name: str, network: nn.Module) -> PartCost:
    count = sum(weight.numel() for weight in network.parameters())
    return PartCost(name, type(network).__name__, count, 4 * count, 2 * count)
