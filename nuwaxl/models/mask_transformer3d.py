"""The diffusion transformer (DiT): what `MaskUNet3D` reads and returns, by another architecture.

Knows latents, noise levels, frame times and prompt embeddings, not schedules, stories or trees.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.embeddings import (
    TimestepEmbedding,
    Timesteps,
    get_2d_sincos_pos_embed_from_grid,
)
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import Cache, autocast_once, once
from nuwaxl.models.blocks import FrameTimeEmbedding
from nuwaxl.models.frame_estimator import estimator_of_network
from nuwaxl.models.given_frames import GivenFrameEncoder
from nuwaxl.models.mask_unet3d import MaskUNet3DOutput
from nuwaxl.models.transformer_blocks import MaskTransformerBlock, TokenInputs

_NOISE_LEVEL_DIM = 256
"""Width of the sinusoids of a noise level, as in DiT."""
_PATCH_SIZES = (1, 2, 4)
_ZERO_AT_THE_START = (
    # So that a new block changes nothing and a new network predicts nothing (adaLN-zero) ...
    *("modulation", "prompt_attention.out_proj", "modulation_out", "proj_out"),
    # ... and a network grown from images is the image network (as in `MaskUNet3D`).
    *("injection", "mask_proj", "frame_time_proj", "prompt_proj"),
    # ... and one that is given an estimator the network without it.
    *("estimate_embed", "estimate_share"),
    # ... and one that is shown sketches.
    *("sketch_embed", "sketch_share"),
)
"""Ends of the names of these layers."""


class MaskTransformer3D(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A diffusion transformer over the frames of a segment, told which frames are given.

    Cells of a frame attend to each other, then to the frame's prompt, then each cell to itself in
    the other frames. Attention over all cells of all frames at once would not do: a network grown
    from images could not start as the image network.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the prediction.
        patch_size: cells per side of what becomes one token: 1, 2 or 4.
        num_layers: blocks.
        num_attention_heads: heads of every attention.
        attention_head_dim: channels per head; heads times this is the width, a multiple of 4.
        mlp_ratio: hidden width of the perceptrons over the width.
        cross_attention_dim: width of the prompt embeddings.
        temporal: False builds the image network alone: no temporal layers, no injection.
        condition_channels: width of the given frames' features.
        num_prompt_tokens: with a prompt adapter's fixed number of tokens, the prompt also joins the
            noise level's embedding. None: prompts of any length, by attention alone.
        estimator: settings of a `FrameEstimator`, whose estimate of the new frames the network
            sees and adds to; None: none. Its prompts have one number of tokens.
        sketched: whether the network is shown a rough sketch of each frame, as a `SceneryModel`
            makes it, which it adds to as well.

    Raises:
        ValueError: if the arguments cannot be.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["MaskTransformerBlock"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        patch_size: int = 2,
        num_layers: int = 6,
        num_attention_heads: int = 8,
        attention_head_dim: int = 32,
        mlp_ratio: float = 4.0,
        cross_attention_dim: int = 256,
        temporal: bool = True,
        condition_channels: int = 64,
        num_prompt_tokens: int | None = None,
        estimator: Mapping[str, Any] | None = None,
        sketched: bool = False,
    ):
        super().__init__()
        channels = num_attention_heads * attention_head_dim
        if patch_size not in _PATCH_SIZES:
            raise ValueError(f"`patch_size` must be one of {_PATCH_SIZES}, got {patch_size}.")
        if channels < 4 or channels % 4:
            raise ValueError(
                "`num_attention_heads` times `attention_head_dim` must be a multiple of 4, got "
                f"{num_attention_heads} x {attention_head_dim}."
            )
        self.temporal = temporal
        self.patch_embed = nn.Linear(in_channels * patch_size**2, channels)
        self.time_proj = Timesteps(_NOISE_LEVEL_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(_NOISE_LEVEL_DIM, channels)
        self.blocks = nn.ModuleList(
            MaskTransformerBlock(
                channels,
                head_dim=attention_head_dim,
                mlp_channels=round(mlp_ratio * channels),
                cross_attention_dim=cross_attention_dim,
                condition_channels=condition_channels if temporal else None,
            )
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.modulation_out = nn.Linear(channels, 2 * channels)
        self.proj_out = nn.Linear(channels, out_channels * patch_size**2)
        if num_prompt_tokens is not None:
            self.prompt_proj = nn.Linear(num_prompt_tokens * cross_attention_dim, channels)
        if temporal:
            self.frame_time_embedding = FrameTimeEmbedding(channels)
            self.frame_time_proj = nn.Linear(channels, channels)
            # Halved as often as it takes to come to the size of the tokens.
            self.given_frame_encoder = GivenFrameEncoder(
                in_channels, condition_channels, patch_size.bit_length()
            )
            self.mask_proj = nn.Linear(condition_channels, channels)
        if estimator is not None:
            self.frame_estimator = estimator_of_network(estimator, temporal=temporal)
            self.estimate_embed = nn.Linear(in_channels * patch_size**2, channels)
            self.estimate_share = nn.Linear(channels, out_channels)
        if sketched:
            self.sketch_embed = nn.Linear(in_channels * patch_size**2, channels)
            self.sketch_share = nn.Linear(channels, out_channels)
        self._start()

    def _start(self) -> None:
        """Weights as DiT has them; zero where the network is not to see or say anything yet."""
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear) or name.startswith("frame_estimator."):
                continue
            if name.endswith(_ZERO_AT_THE_START):
                zero_module(module)
            else:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        sample: Float[Tensor, "batch frames channels height width"],
        timestep: Tensor | float,
        encoder_hidden_states: Float[Tensor, "batch frames tokens dim"],
        *,
        frame_times: Float[Tensor, "batch frames"] | None = None,
        given_latents: Float[Tensor, "batch frames channels height width"] | None = None,
        conditioning_mask: Float[Tensor, "batch frames"] | None = None,
        sketches: Float[Tensor, "batch frames channels height width"] | None = None,
        cache: Cache | None = None,
        return_dict: bool = True,
    ) -> MaskUNet3DOutput | tuple[Tensor]:
        """Predict noise, clean latents or velocity, whichever it was trained for.

        Args:
            sample: noisy latents, with the clean ones at given frames; height and width are
                multiples of `patch_size`.
            timestep: noise level, one for all or one per segment (batch,).
            encoder_hidden_states: prompt embeddings, one prompt per frame.
            frame_times: when each frame happens, in seconds. Needed unless `temporal=False`.
            given_latents: clean latents of given frames, zero elsewhere; None: none is given.
            conditioning_mask: 1 where a frame is given, else 0; None: none is given.
            sketches: rough latents of every frame, zeros where there is none, for a network that is
                `sketched`; None: there is none.
            cache: an empty dict, handed in again with calls that differ in `sample` and `timestep`
                alone, as a segment's steps do: the rest is computed once. Not for training.
            return_dict: False returns a tuple.

        Raises:
            ValueError: if a temporal network gets no frame times, or latents of a size that is no
                multiple of `patch_size`.
        """
        batch, _, _, height, width = sample.shape
        patch = self.config["patch_size"]
        if height % patch or width % patch:
            raise ValueError(
                f"`sample` must have sides that are multiples of `patch_size` ({patch}), got "
                f"{height}x{width}."
            )

        sketches = sketches if self.config["sketched"] else None

        def conditions() -> tuple[TokenInputs, Tensor, Tensor | None]:
            inputs, offsets, estimate = self._conditions(
                sample, encoder_hidden_states, frame_times, given_latents, conditioning_mask
            )
            if sketches is not None:
                offsets = offsets + self.sketch_embed(_patches(sketches, patch))
            return inputs, offsets, estimate

        inputs, offsets, estimate = once(cache, self, conditions)
        tokens = self.patch_embed(_patches(sample, patch))
        tokens = tokens + offsets.to(tokens)
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(batch)
        level = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))
        temb = functional.silu(level.unsqueeze(1) + inputs.temb)
        inputs = replace(inputs, temb=temb, cache=cache)
        for block in self.blocks:
            tokens = block(tokens, inputs)
        shift, scale = self.modulation_out(temb).unsqueeze(2).chunk(2, dim=-1)
        tokens = self.proj_out(torch.addcmul(shift, self.norm_out(tokens), 1 + scale))
        prediction = rearrange(
            tokens, "b f (h w) (c p q) -> b f c (h p) (w q)", h=height // patch, p=patch, q=patch
        )
        if estimate is not None:
            share = self.estimate_share(temb)[..., None, None]
            prediction = prediction + share * estimate
        if sketches is not None:
            prediction = prediction + self.sketch_share(temb)[..., None, None] * sketches
        return MaskUNet3DOutput(sample=prediction) if return_dict else (prediction,)

    def _conditions(
        self,
        sample: Tensor,
        encoder_hidden_states: Tensor,
        frame_times: Tensor | None,
        given_latents: Tensor | None,
        conditioning_mask: Tensor | None,
    ) -> tuple[TokenInputs, Tensor, Tensor | None]:
        """What the blocks read, what is added to the tokens, and the estimate of the new frames.

        Of `sample` the size counts; `temb` is still without noise level.
        """
        batch, frames, _, height, width = sample.shape
        patch, channels = self.config["patch_size"], self.norm_out.normalized_shape[0]
        prompts = autocast_once(encoder_hidden_states)
        temb = prompts.new_zeros(batch, frames, channels)
        if self.config["num_prompt_tokens"] is not None:
            temb = self.prompt_proj(prompts.flatten(2))
        frame_embedding = condition = None
        if self.temporal:
            if frame_times is None:
                raise ValueError("`frame_times` must be given: this network has temporal layers.")
            if given_latents is None:
                given_latents = torch.zeros_like(sample)
            if conditioning_mask is None:
                conditioning_mask = sample.new_zeros(batch, frames)
            frame_embedding = self.frame_time_embedding(frame_times)
            features, mask_features = self.given_frame_encoder(
                given_latents.to(sample.dtype), conditioning_mask.to(sample.dtype)
            )
            condition = rearrange(features[-1], "(b f) c h w -> b f (h w) c", f=frames)
            temb = temb + self.frame_time_proj(functional.silu(frame_embedding))
            temb = temb + self.mask_proj(mask_features[-1]).unflatten(0, (batch, frames))
        offsets, estimate = _positions(height // patch, width // patch, channels), None
        offsets = offsets.to(sample.device)
        if self.config["estimator"] is not None:
            estimate = self.frame_estimator(given_latents, conditioning_mask, frame_times, prompts)
            offsets = offsets + self.estimate_embed(_patches(estimate, patch))
        inputs = TokenInputs(temb, prompts.flatten(0, 1), frame_embedding, condition)
        return inputs, offsets, estimate

    @classmethod
    def from_image(
        cls, image: "MaskTransformer3D", *, condition_channels: int = 64
    ) -> "MaskTransformer3D":
        """Build the network around an image network, whose output it keeps at first.

        Args:
            image: a trained `MaskTransformer3D` with `temporal=False`.
            condition_channels: width of the given frames' features.

        Returns:
            A network with the image network's weights, on its device and in its dtype; its new
            layers change nothing until they are trained.

        Raises:
            ValueError: if `image` has temporal layers already.
        """
        config = {k: v for k, v in dict(image.config).items() if not k.startswith("_")}
        if config["temporal"]:
            raise ValueError("`image` must have `temporal=False`, got a temporal network.")
        model = cls(**config | {"temporal": True, "condition_channels": condition_channels})
        nn.Module.to(model, image.device, image.dtype)
        _, unexpected = model.load_state_dict(image.state_dict(), strict=False)
        assert not unexpected, unexpected
        return model


def _patches(
    latents: Float[Tensor, "batch frames channels height width"], size: int
) -> Float[Tensor, "batch frames cells patch"]:
    # Channels outermost: further channels are further columns, so a network can grow them.
    return rearrange(latents, "b f c (h p) (w q) -> b f (h w) (c p q)", p=size, q=size)


def _positions(height: int, width: int, channels: int) -> Float[Tensor, "cells channels"]:
    """Sinusoids of each token's row and column, for a picture of any size."""
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).unsqueeze(1)
    return get_2d_sincos_pos_embed_from_grid(channels, grid, output_type="pt")  # pyright: ignore
