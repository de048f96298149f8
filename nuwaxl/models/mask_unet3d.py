"""The conditional 3-D U-Net of the paper's section 3.2, for the global and the local role alike.

Knows latents, noise levels, frame times and prompt embeddings, not schedules, stories or trees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import Cache, FastAttnProcessor, autocast_once, once
from nuwaxl.models.blocks import (
    RESNET_EPS,
    BlockInputs,
    BlockShape,
    DownBlock,
    FrameTimeEmbedding,
    MidBlock,
    UpBlock,
)
from nuwaxl.models.frame_estimator import estimator_of_network
from nuwaxl.models.given_frames import GivenFrameEncoder
from nuwaxl.models.stable_diffusion import image_settings


@dataclass
class MaskUNet3DOutput(BaseOutput):
    """Result of `MaskUNet3D`."""

    sample: Float[Tensor, "batch frames channels height width"]
    """Prediction for every frame; at given frames it means nothing."""


class MaskUNet3D(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Stable Diffusion's U-Net over the frames of a segment, told which frames are given.

    Spatial layers are diffusers' with Stable Diffusion's parameter names and see frames as a
    batch. Temporal convolutions, temporal attention, the frame-time embedding and the injection
    of given latents and mask are added such that the untrained network gives exactly the image
    U-Net's output on every frame (see `from_unet2d`).

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the prediction.
        block_out_channels: width at each resolution, finest first.
        layers_per_block: residual blocks in a down block; an up block has one more.
        attention_levels: for each resolution, whether its blocks attend; the mid block always
            does. None: all but the finest.
        cross_attention_dim: width of the prompt embeddings.
        attention_head_dim: channels per attention head (not their number), for all or for each
            resolution.
        norm_num_groups: groups of the group norms; divides every width.
        use_linear_projection: linear instead of 1x1 convolutional projections around spatial
            attention, as Stable Diffusion 2 has them.
        temporal: False builds the image U-Net alone: no temporal layers, no injection.
        condition_channels: width of the given frames' features.
        multi_scale_injection: inject at every resolution; False: only at the finest.
        symmetric_injection: inject on the way up as on the way down; False: not on the way up.
        num_prompt_tokens: with a prompt adapter's fixed number of tokens, the prompt also joins the
            noise level's embedding, so that it reaches every residual block and not only those
            beside an attention. None: prompts of any length, by attention alone.
        time_embedding_dim: width of the embeddings of noise level and frame times. None: four
            times the finest width, as Stable Diffusion has it.
        level_shortcuts: convolve the shortcut into each coarser level even where its width is the
            finer one's, as a network must whose finer level was widened.
        estimator: settings of a `FrameEstimator`, whose estimate of the new frames the network
            sees and adds to; None: none. Its prompts have one number of tokens.
        sketched: whether the network is shown a rough sketch of each frame, as a `SceneryModel`
            makes it, which it adds to as well.

    Raises:
        ValueError: if the arguments do not fit each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DownBlock", "MidBlock", "UpBlock"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        block_out_channels: Sequence[int] = (64, 128, 192),
        layers_per_block: int = 1,
        attention_levels: Sequence[bool] | None = None,
        cross_attention_dim: int = 256,
        attention_head_dim: int | Sequence[int] = 32,
        norm_num_groups: int = 32,
        use_linear_projection: bool = False,
        temporal: bool = True,
        condition_channels: int = 64,
        multi_scale_injection: bool = True,
        symmetric_injection: bool = True,
        num_prompt_tokens: int | None = None,
        time_embedding_dim: int | None = None,
        level_shortcuts: bool = False,
        estimator: Mapping[str, Any] | None = None,
        sketched: bool = False,
    ):
        super().__init__()
        widths = list(block_out_channels)
        num_levels = len(widths)
        if attention_levels is None:
            attention_levels = [level > 0 for level in range(num_levels)]
        head_dims = (
            [attention_head_dim] * num_levels
            if isinstance(attention_head_dim, int)
            else list(attention_head_dim)
        )
        _check_shape(widths, list(attention_levels), head_dims, norm_num_groups)
        temb_channels = time_embedding_dim or 4 * widths[0]
        self.temporal = temporal

        self.conv_in = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], temb_channels)
        if num_prompt_tokens is not None:
            # Zero at the start, so an untrained network reads the prompt by attention alone.
            self.prompt_proj = zero_module(
                nn.Linear(num_prompt_tokens * cross_attention_dim, temb_channels)
            )
        if temporal:
            self.frame_time_embedding = FrameTimeEmbedding(temb_channels)
            # Zero at the start, so an untrained network does not see frame times.
            self.frame_time_proj = zero_module(nn.Linear(temb_channels, temb_channels))
            self.given_frame_encoder = GivenFrameEncoder(
                in_channels, condition_channels, num_levels if multi_scale_injection else 1
            )
        if estimator is not None:
            # Zero at the start, so a network that is given an estimator is the one without.
            self.frame_estimator = estimator_of_network(estimator, temporal=temporal)
            self.estimate_conv = zero_module(nn.Conv2d(in_channels, widths[0], 1))
            self.estimate_share = zero_module(nn.Linear(temb_channels, out_channels))
        if sketched:
            self.sketch_conv = zero_module(nn.Conv2d(in_channels, widths[0], 1))
            self.sketch_share = zero_module(nn.Linear(temb_channels, out_channels))
        shapes = [
            BlockShape(
                temb_channels=temb_channels,
                norm_num_groups=norm_num_groups,
                cross_attention_dim=cross_attention_dim,
                head_dim=head_dims[level],
                use_linear_projection=use_linear_projection,
                with_attention=attention_levels[level],
                temporal=temporal,
                condition_channels=condition_channels
                if temporal and (multi_scale_injection or level == 0)
                else None,
            )
            for level in range(num_levels)
        ]
        self._add_blocks(widths, layers_per_block, shapes, symmetric_injection, level_shortcuts)

        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=RESNET_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)
        self.set_attn_processor(FastAttnProcessor())  # pyright: ignore[reportArgumentType]

    def _add_blocks(
        self,
        widths: list[int],
        num_layers: int,
        shapes: list[BlockShape],
        symmetric_injection: bool,
        level_shortcuts: bool,
    ) -> None:
        """Add down, mid and up blocks; `widths` and `shapes` by level, finest first."""
        coarsest = len(widths) - 1
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            pairs = [(widths[max(level - 1, 0)], width)] + [(width, width)] * (num_layers - 1)
            self.down_blocks.append(
                DownBlock(
                    pairs,
                    num_layers,
                    shapes[level],
                    level=level,
                    downsample=level < coarsest,
                    convolve_shortcut=level_shortcuts and level > 0,
                )
            )
        mid_shape = replace(shapes[-1], with_attention=True)
        self.mid_block = MidBlock([(widths[-1], widths[-1])] * 2, 1, mid_shape, level=coarsest)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width, below = widths[level], widths[min(level + 1, coarsest)]
            # The skips of an up block: its own resolution's layers, then what came into them.
            skips = [width] * num_layers + [widths[max(level - 1, 0)]]
            incoming = [below] + [width] * num_layers
            pairs = [(a + b, width) for a, b in zip(incoming, skips, strict=True)]
            shape = shapes[level]
            if not symmetric_injection:
                shape = replace(shape, condition_channels=None)
            self.up_blocks.append(
                UpBlock(pairs, num_layers + 1, shape, level=level, upsample=level > 0)
            )

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
            sample: noisy latents, with the clean ones at given frames.
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
            ValueError: if a temporal network gets no frame times.
        """
        batch, frames = sample.shape[:2]
        hidden_states = self.conv_in(sample.flatten(0, 1))
        conditions, estimate = once(
            cache,
            self,
            lambda: self._conditions(
                sample, encoder_hidden_states, frame_times, given_latents, conditioning_mask
            ),
        )
        if estimate is not None:
            hidden_states = hidden_states + self.estimate_conv(estimate)
        sketches = sketches if self.config["sketched"] else None
        if sketches is not None:
            hidden_states = hidden_states + self.sketch_conv(sketches.flatten(0, 1))
        # One row per frame although frames share their noise level: the same matrix product as
        # the image U-Net's, so the same rounding.
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(batch)
        timesteps = timesteps.repeat_interleave(frames)
        temb = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))
        temb = functional.silu(temb + conditions.temb)
        inputs = replace(conditions, temb=temb, cache=cache)
        skips = [hidden_states]
        for block in self.down_blocks:
            hidden_states, block_skips = block(hidden_states, inputs)
            skips += block_skips
        hidden_states = self.mid_block(hidden_states, inputs)
        for block in self.up_blocks:
            hidden_states = block(hidden_states, skips, inputs)
            # Not by the block itself: a wrapper such as FSDP hands it another list.
            del skips[-len(block.resnets) :]  # pyright: ignore[reportArgumentType]
        hidden_states = functional.silu(self.conv_norm_out(hidden_states))
        prediction = self.conv_out(hidden_states)
        if estimate is not None:
            share = self.estimate_share(temb)[..., None, None]
            prediction = prediction + share * estimate
        if sketches is not None:
            share = self.sketch_share(temb)[..., None, None]
            prediction = prediction + share * sketches.flatten(0, 1)
        prediction = prediction.unflatten(0, (batch, frames))
        return MaskUNet3DOutput(sample=prediction) if return_dict else (prediction,)

    def _conditions(
        self,
        sample: Tensor,
        encoder_hidden_states: Tensor,
        frame_times: Tensor | None,
        given_latents: Tensor | None,
        conditioning_mask: Tensor | None,
    ) -> tuple[BlockInputs, Float[Tensor, "batch_frames channels height width"] | None]:
        """What the blocks read, and the estimate of the new frames.

        Of `sample` the size counts; `temb` is still without noise level.
        """
        batch, frames = sample.shape[:2]
        estimate, prompts = None, autocast_once(encoder_hidden_states)
        encoder_hidden_states = prompts.flatten(0, 1)
        temb_channels = self.time_embedding.linear_2.out_features
        temb = encoder_hidden_states.new_zeros(batch * frames, temb_channels)
        if self.config["num_prompt_tokens"] is not None:
            temb = self.prompt_proj(encoder_hidden_states.flatten(1))
        frame_embedding, condition_features, mask_features = None, (), ()
        if self.temporal:
            if frame_times is None:
                raise ValueError("`frame_times` must be given: this network has temporal layers.")
            if given_latents is None:
                given_latents = torch.zeros_like(sample)
            if conditioning_mask is None:
                conditioning_mask = sample.new_zeros(batch, frames)
            frame_embedding = self.frame_time_embedding(frame_times)
            temb = temb + self.frame_time_proj(functional.silu(frame_embedding)).flatten(0, 1)
            condition_features, mask_features = self.given_frame_encoder(
                given_latents.to(sample.dtype), conditioning_mask.to(sample.dtype)
            )
            if self.config["estimator"] is not None:
                estimate = self.frame_estimator(
                    given_latents, conditioning_mask, frame_times, prompts
                )
                estimate = estimate.flatten(0, 1)
        inputs = BlockInputs(
            temb, encoder_hidden_states, frame_embedding, condition_features, mask_features
        )
        return inputs, estimate

    @classmethod
    def from_unet2d(
        cls,
        unet2d: "UNet2DConditionModel | MaskUNet3D",
        *,
        condition_channels: int = 64,
        multi_scale_injection: bool = True,
        symmetric_injection: bool = True,
    ) -> "MaskUNet3D":
        """Build the network around a pretrained image U-Net, whose output it keeps at first.

        Args:
            unet2d: a Stable Diffusion 1.x or 2.x U-Net, or a `MaskUNet3D` with `temporal=False`.
            condition_channels: width of the given frames' features.
            multi_scale_injection: inject at every resolution.
            symmetric_injection: inject on the way up too.

        Returns:
            A network with the image U-Net's weights in its spatial layers, on its device and in
            its dtype; its new layers change nothing until they are trained.

        Raises:
            ValueError: if `unet2d` has parts that Stable Diffusion's U-Nets do not have.
        """
        if isinstance(unet2d, MaskUNet3D):
            config = {k: v for k, v in dict(unet2d.config).items() if not k.startswith("_")}
            if config["temporal"]:
                raise ValueError("`unet2d` must have `temporal=False`, got a temporal MaskUNet3D.")
        else:
            config = image_settings(unet2d)
        config |= {
            "temporal": True,
            "condition_channels": condition_channels,
            "multi_scale_injection": multi_scale_injection,
            "symmetric_injection": symmetric_injection,
        }
        model = cls(**config)
        # diffusers' own `to` warns of modules kept in float32 even where there are none.
        nn.Module.to(model, unet2d.device, unet2d.dtype)
        _, unexpected = model.load_state_dict(unet2d.state_dict(), strict=False)
        assert not unexpected, unexpected
        return model


def _check_shape(
    widths: list[int], attention_levels: list[bool], head_dims: list[int], norm_num_groups: int
) -> None:
    for name, values in (
        ("attention_levels", attention_levels),
        ("attention_head_dim", head_dims),
    ):
        if len(values) != len(widths):
            raise ValueError(
                f"`{name}` must have one value for each of the {len(widths)} "
                f"`block_out_channels`, got {values}."
            )
    for width, head_dim in zip(widths, head_dims, strict=True):
        if width % norm_num_groups or width % head_dim:
            raise ValueError(
                f"`block_out_channels` must be multiples of `norm_num_groups` ({norm_num_groups}) "
                f"and `attention_head_dim` ({head_dim}), got {width}."
            )
