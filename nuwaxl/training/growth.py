"""More latent channels for networks that are trained already, without losing what they know.

Knows weights, not data. At the start a grown autoencoder rebuilds what the old one did, and a
grown network predicts the old channels as before.
"""

from typing import Any

import torch
from torch import Tensor

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import Backbone, backbone_settings


@torch.no_grad()
def grow_autoencoder(vae: TemporalAutoencoderKL, channels: int) -> TemporalAutoencoderKL:
    """An autoencoder with further latent channels, which the decoder does not read yet.

    Args:
        vae: the trained one.
        channels: of the grown latents.

    Raises:
        ValueError: `channels` is fewer than it has.
    """
    old = vae.config["latent_channels"]
    _check(old, channels)
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    extra = channels - old
    for name, fill in (("latents_mean", 0.0), ("latents_std", 1.0)):
        if settings[name] is not None:
            settings[name] = [*settings[name], *[fill] * extra]
    grown = TemporalAutoencoderKL(**{**settings, "latent_channels": channels})
    weights = vae.state_dict()
    means_and_variances = [*range(old), *range(channels, channels + old)]
    for name, target in grown.state_dict().items():
        source = weights[name]
        if source.shape == target.shape:
            target.copy_(source)
        elif name.startswith(("encoder.conv_out", "quant_conv")):
            # New means start random; new log-variances at zero weight, small and constant.
            target[channels + old :] = 0.0 if target.dim() > 1 else -4.0
            if name == "quant_conv.weight":
                target.zero_()
                new = range(old, channels)
                target[list(new), list(new)] = 1.0
                _paste(target, source, means_and_variances, means_and_variances)
            elif name == "quant_conv.bias":
                target[old:channels] = 0.0
                target[means_and_variances] = source
            else:
                target[means_and_variances] = source
        else:
            # `post_quant_conv` passes new channels on; the decoder does not read them yet.
            target.zero_()
            if name == "post_quant_conv.weight":
                target[range(old, channels), range(old, channels)] = 1.0
            rows = range(source.shape[0])
            columns = range(source.shape[1]) if source.dim() > 1 else None
            _paste(target, source, list(rows), None if columns is None else list(columns))
    return grown


@torch.no_grad()
def grow_network(network: Backbone, channels: int) -> Backbone:
    """A network for grown latents: it ignores new channels and predicts zero for them.

    Args:
        network: the trained one.
        channels: of the grown latents.

    Raises:
        ValueError: `channels` is fewer than it has.
    """
    _check(network.config["in_channels"], channels)
    changes: dict[str, Any] = {"in_channels": channels, "out_channels": channels}
    grown = type(network)(**backbone_settings(network) | changes)
    weights = network.state_dict()
    for name, target in grown.state_dict().items():
        source = weights[name]
        if source.shape != target.shape:
            target.zero_()
        target[tuple(slice(size) for size in source.shape)] = source
    return grown


def read_prompts_in_every_block(network: Backbone, num_prompt_tokens: int) -> Backbone:
    """A network whose prompt also joins the noise level's embedding; it ignores that at first.

    Args:
        network: the trained one, which reads prompts by attention alone.
        num_prompt_tokens: tokens of every prompt.
    """
    changes: dict[str, Any] = {"num_prompt_tokens": num_prompt_tokens}
    grown = type(network)(**backbone_settings(network) | changes)
    grown.load_state_dict(network.state_dict(), strict=False)
    return grown


def _paste(target: Tensor, source: Tensor, rows: list[int], columns: list[int] | None) -> None:
    if columns is None:
        target[rows] = source
    else:
        target[torch.tensor(rows)[:, None], torch.tensor(columns)] = source


def _check(old: int, channels: int) -> None:
    if channels < old:
        raise ValueError(f"Latents can grow from {old} channels, not shrink to {channels}.")
