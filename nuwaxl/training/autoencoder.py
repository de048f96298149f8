"""Stage `autoencoder`: the T-KLVAE learns to rebuild frames (paper section 3.1)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nuwaxl.data.frames import FramesConfig
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.training.growth import grow_autoencoder
from nuwaxl.training.loop import LoopConfig
from nuwaxl.training.prepared import check_picture_size, checked_frames


@dataclass(frozen=True)
class AutoencoderModelConfig:
    """Sizes of the autoencoder; see `TemporalAutoencoderKL`."""

    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    patch_size: int = 4
    temporal_decoder: bool = False


@dataclass(frozen=True)
class AutoencoderTraining:
    """The stage `autoencoder`."""

    model: AutoencoderModelConfig = field(default_factory=AutoencoderModelConfig)
    data: FramesConfig = field(default_factory=FramesConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    base: str = ""
    """Folder of an autoencoder to start from; its sizes replace `model`'s, its latents grow."""
    train_encoder: bool = True
    """False: latents stay as they are and only the decoder learns."""
    kl_weight: float = 1e-4
    """Weight of the mean KL divergence per latent number."""
    gradient_weight: float = 1.0
    """Weight of the L1 distance of image gradients, at three scales."""
    actor_weight: float = 3.0
    """Extra weight of the pixels of the actor, whose mask is known in the toon world only."""
    num_statistics: int = 512
    """Frames from which the latents' mean and scale are measured at the end."""


class AutoencoderStage:
    """L1 + gradient L1 + KL on frames of the toon world or of prepared videos."""

    def __init__(self, config: AutoencoderTraining):
        self.config = config
        self.frames = checked_frames(config.data, seed=config.loop.seed)
        sizes = config.model
        if config.base:
            base = TemporalAutoencoderKL.from_pretrained(
                config.base, temporal_decoder=sizes.temporal_decoder
            )
            self.model = grow_autoencoder(base, sizes.latent_channels)
        else:
            self.model = TemporalAutoencoderKL(
                latent_channels=sizes.latent_channels,
                block_out_channels=tuple(sizes.block_out_channels),
                layers_per_block=sizes.layers_per_block,
                norm_num_groups=sizes.norm_num_groups,
                patch_size=sizes.patch_size,
                temporal_decoder=sizes.temporal_decoder,
            )
        check_picture_size(config.data.dataset, self.model)
        if not config.train_encoder:
            self.model.encoder.requires_grad_(False)
            if self.model.quant_conv is not None:
                self.model.quant_conv.requires_grad_(False)

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Frames in [-1, 1] and the weight of each pixel."""
        frames, masks = self.frames.clips(index, batch_size)
        return {
            "frames": to_unit_range(frames),
            "weight": 1
            + self.config.actor_weight * rearrange(torch.from_numpy(masks), "b f h w -> b f 1 h w"),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class; the KL term is taken per latent number."""
        frames, weight = batch["frames"], batch["weight"]
        rebuilt, posterior = model(frames, sample_posterior=self.config.train_encoder)
        rebuilt = rebuilt.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = (rebuilt - frames).abs()
        pixel = (error * weight).sum() / weight.expand_as(error).sum()
        edges = gradient_distance(rebuilt, frames, weight)
        with torch.no_grad():
            squared = (rebuilt.clamp(-1, 1) - frames).square().mean(dim=(1, 2, 3, 4)) / 4
            psnr = (-10 * squared.log10()).mean()
        loss = pixel + self.config.gradient_weight * edges + self.config.kl_weight * kl
        return loss, {
            "l1": pixel.detach(),
            "edges": edges.detach(),
            "kl": kl.detach(),
            "psnr": psnr,
        }

    def save(self, folder: Path) -> None:
        """Write the autoencoder with the statistics of its latents."""
        if self.config.train_encoder:
            self._measure_statistics()
        self.model.save_pretrained(folder)

    @torch.no_grad()
    def _measure_statistics(self) -> None:
        frames, _ = self.frames.clips(-1, self.config.num_statistics)
        device = next(self.model.parameters()).device
        parts = [
            self.model.posterior(part.to(device)).mode() for part in to_unit_range(frames).split(32)
        ]
        latents = torch.cat(parts).double()
        self.model.register_to_config(
            latents_mean=tuple(latents.mean(dim=(0, 2, 3)).tolist()),
            latents_std=tuple(latents.std(dim=(0, 2, 3)).tolist()),
        )


def to_unit_range(frames: np.ndarray) -> Float[Tensor, "batch frames 3 height width"]:
    """Frames (batch, frames, height, width, 3) uint8 to [-1, 1]."""
    return rearrange(torch.from_numpy(frames), "b f h w c -> b f c h w").float() / 127.5 - 1


def gradient_distance(
    rebuilt: Float[Tensor, "batch frames 3 height width"],
    frames: Float[Tensor, "batch frames 3 height width"],
    weight: Float[Tensor, "batch frames 1 height width"],
) -> Float[Tensor, ""]:
    """Weighted L1 distance of pixel differences along both axes, at full, half, quarter size."""
    difference, mask = (rebuilt - frames).flatten(0, 1), weight.flatten(0, 1)
    total = difference.new_zeros(())
    for _ in range(3):
        for axis in (-1, -2):
            step = difference.diff(dim=axis).abs()
            here = mask.narrow(axis, 1, mask.shape[axis] - 1)
            total = total + (step * here).sum() / (3 * here.sum())
        difference = nn.functional.avg_pool2d(difference, 2)
        mask = nn.functional.avg_pool2d(mask, 2)
    return total / 6
