"""The temporal KL autoencoder (T-KLVAE, paper section 3.1): frames to latents and back.

Knows pixels and latents, not what a segment is: the caller says which frames form a window.
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, DiagonalGaussianDistribution, Encoder
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nuwaxl.models.attention import TemporalAttention
from nuwaxl.models.blocks import TemporalConv

Frames = Float[Tensor, "batch frames 3 height width"]
Latents = Float[Tensor, "batch frames channels latent_height latent_width"]

_POSITION_DIM = 64
"""Width of the sinusoids that tell temporal attention where in its window a frame is."""


class TemporalAutoencoderKL(ModelMixin, ConfigMixin):
    """An image KL-VAE with temporal layers in between, which start as the identity.

    Parameter names of the spatial layers are those of diffusers' `AutoencoderKL`. Keyframes pass
    between levels as latents that are encoded frame by frame, so the encoder has temporal layers
    only when asked; those of the decoder act over the window that is handed in, so a frame's
    pixels depend on its window and on nothing else.

    Args:
        latent_channels: channels of a latent.
        block_out_channels: widths, finest scale first; every scale but the last halves the size.
        layers_per_block: residual blocks per scale in the encoder (one more in the decoder).
        norm_num_groups: groups of every group normalisation.
        patch_size: pixels per side folded into channels before the first convolution and
            unfolded after the last (space-to-depth): full resolution at the cost of a lower one.
        temporal_encoder: temporal layers in the encoder too, as in the paper.
        temporal_decoder: temporal layers in the decoder.
        latents_mean: per channel, subtracted from the posterior's mean (None: 0).
        latents_std: per channel, by which it is then divided (None: 1).
        use_quant_conv: whether the image VAE has 1x1 convolutions around its latents.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: Sequence[int] = (64, 128, 192),
        layers_per_block: int = 1,
        norm_num_groups: int = 32,
        patch_size: int = 1,
        temporal_encoder: bool = False,
        temporal_decoder: bool = True,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        use_quant_conv: bool = True,
    ):
        super().__init__()
        num_scales = len(block_out_channels)
        self.encoder = Encoder(
            in_channels=3 * patch_size**2,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * num_scales,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
        )
        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=3 * patch_size**2,
            up_block_types=("UpDecoderBlock2D",) * num_scales,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
        )
        self.quant_conv = (
            nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1) if use_quant_conv else None
        )
        self.post_quant_conv = (
            nn.Conv2d(latent_channels, latent_channels, 1) if use_quant_conv else None
        )
        self.encoder_temporal = _temporal_layers(self.encoder) if temporal_encoder else None
        self.decoder_temporal = _temporal_layers(self.decoder) if temporal_decoder else None
        self.use_slicing = False

    @classmethod
    def from_image_vae(
        cls,
        image_vae: AutoencoderKL,
        *,
        temporal_encoder: bool = True,
        temporal_decoder: bool = True,
    ) -> "TemporalAutoencoderKL":
        """Take over an image VAE; at the start every frame comes out as that VAE gives it.

        Args:
            image_vae: any `AutoencoderKL` of the usual blocks (Stable Diffusion's, say).
            temporal_encoder: insert temporal layers in the encoder.
            temporal_decoder: insert temporal layers in the decoder.

        Raises:
            ValueError: the VAE is built of other blocks than this one can hold.
        """
        config = image_vae.config
        if (config["use_quant_conv"], config["act_fn"]) != (config["use_post_quant_conv"], "silu"):
            raise ValueError(
                "`image_vae` must be an AutoencoderKL with 'silu' and both or no quant"
                f" convolutions, got act_fn={config['act_fn']!r},"
                f" use_quant_conv={config['use_quant_conv']},"
                f" use_post_quant_conv={config['use_post_quant_conv']}."
            )
        shift = config["shift_factor"] or 0.0
        channels = config["latent_channels"]
        model = cls(
            latent_channels=channels,
            block_out_channels=tuple(config["block_out_channels"]),
            layers_per_block=config["layers_per_block"],
            norm_num_groups=config["norm_num_groups"],
            temporal_encoder=temporal_encoder,
            temporal_decoder=temporal_decoder,
            latents_mean=tuple(config["latents_mean"] or (shift,) * channels),
            latents_std=tuple(config["latents_std"] or (1 / config["scaling_factor"],) * channels),
            use_quant_conv=config["use_quant_conv"],
        )
        missing, unexpected = model.load_state_dict(image_vae.state_dict(), strict=False)
        if unexpected or any("temporal" not in name for name in missing):
            raise ValueError(
                "`image_vae` must be built of DownEncoderBlock2D and UpDecoderBlock2D only,"
                f" got weights that do not fit: {(unexpected + missing)[0]!r}."
            )
        # Not diffusers' own `to`, which warns of parts kept in float32 where there are none.
        nn.Module.to(model, image_vae.device, image_vae.dtype)
        return model

    @property
    def spatial_scale(self) -> int:
        """Pixels per side of one latent cell."""
        return self.config["patch_size"] * 2 ** (len(self.config["block_out_channels"]) - 1)

    def enable_slicing(self) -> None:
        """Decode one window at a time: less memory, the same pixels within rounding."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Decode all windows of a call at once."""
        self.use_slicing = False

    def posterior(self, frames: Frames) -> DiagonalGaussianDistribution:
        """The posterior of each frame, frames folded into the batch: (batch * frames, c, h, w).

        Args:
            frames: pixels in [-1, 1]; sides are multiples of `spatial_scale`.
        """
        num_frames = frames.shape[1]
        height, width = frames.shape[-2:]
        if height % self.spatial_scale or width % self.spatial_scale:
            raise ValueError(
                f"`frames` must have sides that are multiples of {self.spatial_scale}, got"
                f" {height}x{width}: resize or crop them."
            )
        hidden = rearrange(frames, "b f c h w -> (b f) c h w")
        if self.config["patch_size"] > 1:
            hidden = nn.functional.pixel_unshuffle(hidden, self.config["patch_size"])
        hidden = _run(self.encoder, self.encoder_temporal, hidden, num_frames)
        if self.quant_conv is not None:
            hidden = self.quant_conv(hidden)
        return DiagonalGaussianDistribution(hidden.float())

    def encode_latents(self, frames: Frames) -> Latents:
        """Latents of unit scale: the posterior's mean, normalised per channel.

        Args:
            frames: pixels in [-1, 1].
        """
        mean, std = self._statistics(frames.device)
        latents = (self.posterior(frames).mode() - mean) / std
        return rearrange(latents, "(b f) c h w -> b f c h w", b=frames.shape[0])

    def decode_latents(self, latents: Latents) -> Frames:
        """Pixels in [-1, 1] (not clipped) of windows of frames; windows do not see each other.

        Args:
            latents: normalised latents; each entry of the batch is one window.
        """
        if self.use_slicing and latents.shape[0] > 1:
            return torch.cat([self.decode_latents(window) for window in latents.split(1)])
        batch, num_frames = latents.shape[:2]
        mean, std = self._statistics(latents.device)
        hidden = rearrange(latents, "b f c h w -> (b f) c h w") * std + mean
        hidden = hidden.to(self.dtype)
        if self.post_quant_conv is not None:
            hidden = self.post_quant_conv(hidden)
        hidden = _run(self.decoder, self.decoder_temporal, hidden, num_frames)
        if self.config["patch_size"] > 1:
            hidden = nn.functional.pixel_shuffle(hidden, self.config["patch_size"])
        return rearrange(hidden, "(b f) c h w -> b f c h w", b=batch)

    def forward(
        self, frames: Frames, *, sample_posterior: bool = False
    ) -> tuple[Frames, DiagonalGaussianDistribution]:
        """Frames rebuilt, and their posterior: what training needs.

        Args:
            frames: pixels in [-1, 1].
            sample_posterior: decode a sample of the posterior instead of its mean.
        """
        posterior = self.posterior(frames)
        raw = posterior.sample() if sample_posterior else posterior.mode()
        mean, std = self._statistics(frames.device)
        latents = rearrange((raw - mean) / std, "(b f) c h w -> b f c h w", b=frames.shape[0])
        return self.decode_latents(latents), posterior

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the raw latents, each (1, channels, 1, 1)."""
        channels = self.config["latent_channels"]
        mean = torch.tensor(self.config["latents_mean"] or (0.0,) * channels, device=device)
        std = torch.tensor(self.config["latents_std"] or (1.0,) * channels, device=device)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def _layers(coder: Encoder | Decoder) -> Iterator[tuple[nn.Module, str]]:
    """The spatial layers between first and last convolution, in order, each with its kind."""
    blocks = (
        [*coder.down_blocks, coder.mid_block]
        if isinstance(coder, Encoder)
        else [coder.mid_block, *coder.up_blocks]
    )
    for block in blocks:
        attentions = getattr(block, "attentions", None)
        for index, resnet in enumerate(block.resnets):
            if attentions is not None and index > 0 and attentions[index - 1] is not None:
                yield attentions[index - 1], "attention"
            yield resnet, "resnet"
        for sampler in (
            getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or []
        ):
            yield sampler, "sampler"


def _temporal_layers(coder: Encoder | Decoder) -> nn.ModuleList:
    """One temporal convolution per residual block, one temporal attention per attention."""
    layers: list[nn.Module] = []
    for module, _ in _layers(coder):
        if isinstance(module, ResnetBlock2D):
            layers.append(TemporalConv(module.out_channels))
        elif isinstance(module, Attention):
            channels = module.query_dim
            head_dim = channels // module.heads
            layers.append(
                TemporalAttention(channels, head_dim=head_dim, frame_embed_dim=_POSITION_DIM)
            )
    return nn.ModuleList(layers)


def _run(
    coder: Encoder | Decoder, temporal: nn.ModuleList | None, hidden: Tensor, num_frames: int
) -> Tensor:
    """Run the coder over (batch * frames, channels, height, width), temporal layers in between."""
    upcoming = iter(temporal or ())
    windows = hidden.shape[0] // num_frames
    positions = get_timestep_embedding(
        torch.arange(num_frames, device=hidden.device), _POSITION_DIM
    )
    positions = positions.to(hidden.dtype).expand(windows, -1, -1)
    hidden = coder.conv_in(hidden)
    for module, kind in _layers(coder):
        hidden = module(hidden, temb=None) if kind != "sampler" else module(hidden)
        if temporal is not None and kind != "sampler":
            layer = next(upcoming)
            hidden = layer(hidden, num_frames if kind == "resnet" else positions)
    return coder.conv_out(coder.conv_act(coder.conv_norm_out(hidden)))
