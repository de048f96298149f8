"""More channels for networks that are trained already, without losing what they know.

Knows weights, not data. At the start a grown autoencoder rebuilds what the old one did, a grown
network predicts the old channels as before, and a widened one nearly what it did.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import Backbone, model_settings
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.models.mask_unet3d import MaskUNet3D


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
    settings = model_settings(vae)
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
    grown = type(network)(**model_settings(network) | changes)
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
    grown = type(network)(**model_settings(network) | changes)
    grown.load_state_dict(network.state_dict(), strict=False)
    return grown


def with_estimator(network: Backbone, estimator: FrameEstimator) -> Backbone:
    """A network with that first estimate of the new frames, which it ignores at first.

    Args:
        network: the trained one; an estimator that it has is replaced.
        estimator: of latents and prompts of the same sizes.

    Raises:
        ValueError: the network has no temporal layers, or reads other latents or prompts.
    """
    wanted = {"in_channels": network.config["in_channels"]}
    if (tokens := network.config["num_prompt_tokens"]) is not None:
        wanted["prompt_dim"] = tokens * network.config["cross_attention_dim"]
    for name, value in wanted.items():
        if estimator.config[name] != value:
            raise ValueError(
                f"The estimator must have `{name}` {value} as the network reads them, got "
                f"{estimator.config[name]}: train it on the same strips."
            )
    changes: dict[str, Any] = {"estimator": model_settings(estimator)}
    grown = type(network)(**model_settings(network) | changes)
    weights = {
        n: w for n, w in network.state_dict().items() if not n.startswith("frame_estimator.")
    }
    weights |= {
        f"frame_estimator.{name}": weight for name, weight in estimator.state_dict().items()
    }
    grown.load_state_dict(weights, strict=False)
    return grown


def with_sketches(network: Backbone) -> Backbone:
    """A network that can be shown a sketch of each frame, which it ignores at first.

    Args:
        network: the trained one.
    """
    changes: dict[str, Any] = {"sketched": True}
    grown = type(network)(**model_settings(network) | changes)
    grown.load_state_dict(network.state_dict(), strict=False)
    return grown


@torch.no_grad()
def widen_unet(network: MaskUNet3D, block_out_channels: Sequence[int]) -> MaskUNet3D:
    """A U-Net with more features where it does not attend (Chen et al. 2016, "Net2Net").

    A widened feature appears so many times, and what reads it divides its weight among the copies,
    at random, so that they learn apart. That changes nothing, but for the norms of an up block
    over features of two widths, whose groups shift: its first steps of training mend it.

    Args:
        network: the trained one.
        block_out_channels: multiples of its own; the same where it attends.

    Raises:
        ValueError: other widths.
    """
    settings = model_settings(network)
    old, new = list(settings["block_out_channels"]), list(block_out_channels)
    attends = settings["attention_levels"] or [level > 0 for level in range(len(old))]
    attends = [*attends[:-1], True]  # the mid block always does
    if len(old) != len(new) or any(
        b % a or (b != a and at) for a, b, at in zip(old, new, attends, strict=True)
    ):
        raise ValueError(
            f"`block_out_channels` must be multiples of {old}, and equal to them where the network"
            f" attends, {attends}; got {new}."
        )
    changes = {
        "block_out_channels": new,
        "time_embedding_dim": network.time_embedding.linear_2.out_features,
        "level_shortcuts": True,
    }
    wide = MaskUNet3D(**settings | changes)
    weights = network.state_dict()
    for name, target in wide.state_dict().items():
        source = weights.get(name)
        if source is None:  # a shortcut where the widths agreed before: it passed all on
            width = len(target)
            is_bias = target.dim() == 1
            source = torch.zeros(width) if is_bias else torch.eye(width)[..., None, None]
        if name == "time_embedding.linear_1.weight":
            _paste(target.zero_(), source, list(range(len(source))), _same_waves(old[0], new[0]))
            continue
        for dim in range(min(source.dim(), 2)):
            origins = _origins(source.shape[dim], target.shape[dim], old, new)
            source = source.index_select(dim, origins)
            if dim == 1:
                source = (
                    source * _shares(len(source), origins)[(...,) + (None,) * (source.dim() - 2)]
                )
        target.copy_(source)
    return wide


def _origins(old: int, new: int, old_widths: list[int], new_widths: list[int]) -> Tensor:
    """Which old feature each new one is a copy of, where a layer has `old` and `new` of them."""
    if new % old == 0:
        return torch.arange(old).repeat_interleave(new // old)
    # An up block reads the coarser level's features, then those of a skip.
    for fine in range(len(old_widths) - 1):
        before, after = old_widths[fine : fine + 2][::-1], new_widths[fine : fine + 2][::-1]
        if (sum(before), sum(after)) == (old, new):
            times = torch.tensor([b // a for a, b in zip(before, after, strict=True)])
            return torch.arange(old).repeat_interleave(
                times.repeat_interleave(torch.tensor(before))
            )
    raise AssertionError(f"no level has {old} and {new} features")


def _shares(rows: int, origins: Tensor) -> Float[Tensor, "rows new"]:
    """How a row's weight of an old feature is divided among its copies."""
    parts = 0.5 + torch.rand(rows, len(origins))
    whole = torch.zeros(rows, int(origins.max()) + 1).index_add_(1, origins, parts)
    return parts / whole[:, origins]


def _same_waves(old: int, new: int) -> list[int]:
    """Where the waves over `old` features are among those over `new`, a multiple of it."""
    times, half = new // old, old // 2
    return [part * new // 2 + times * wave for part in (0, 1) for wave in range(half)]


def _paste(target: Tensor, source: Tensor, rows: list[int], columns: list[int] | None) -> None:
    if columns is None:
        target[rows] = source
    else:
        target[torch.tensor(rows)[:, None], torch.tensor(columns)] = source


def _check(old: int, channels: int) -> None:
    if channels < old:
        raise ValueError(f"Latents can grow from {old} channels, not shrink to {channels}.")
