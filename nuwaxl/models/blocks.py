"""Blocks of the conditional 3-D U-Net: Stable Diffusion's, with time and given frames added.

Knows features with frames folded into the batch, not noise levels, seconds or prompts' words.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import Cache, SpatialTransformer, TemporalAttention
from nuwaxl.models.given_frames import GivenFrameInjection

RESNET_EPS = 1e-5
"""Epsilon of the group norms in Stable Diffusion's residual blocks."""


@dataclass(frozen=True)
class BlockShape:
    """What the layers of one block share."""

    temb_channels: int
    norm_num_groups: int
    cross_attention_dim: int
    head_dim: int
    use_linear_projection: bool
    with_attention: bool
    temporal: bool
    """False builds the block of an image U-Net."""
    condition_channels: int | None
    """Width of the given frames' features; None builds a block without injection."""


@dataclass(frozen=True)
class BlockInputs:
    """What every block of one forward pass reads beside its features."""

    temb: Float[Tensor, "batch_frames temb"]
    """Embedding of noise level and frame time, through its activation."""
    encoder_hidden_states: Float[Tensor, "batch_frames tokens dim"]
    frame_embedding: Float[Tensor, "batch frames embed"] | None
    condition_features: tuple[Tensor, ...]
    """One (batch_frames, condition, height, width) per resolution; empty without injection."""
    mask_features: tuple[Tensor, ...]
    """One (batch_frames, condition) per resolution; empty without injection."""
    cache: Cache | None = None
    """Of what depends on neither features nor `temb`; see `MaskUNet3D.forward`."""


class TemporalConv(nn.Conv1d):
    """Convolution of each latent cell over three frames, identity at the start (section 3.2).

    Args:
        channels: width of the features.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=3, padding=1)
        nn.init.dirac_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Float[Tensor, "batch_frames channels height width"], num_frames: int
    ) -> Float[Tensor, "batch_frames channels height width"]:
        """Mix neighbouring frames; frames are innermost in the batch."""
        cells = hidden_states.unflatten(0, (-1, num_frames)).flatten(3).transpose(1, 2)
        # As a two-dimensional kernel over (frames, cells): swapping frames and channels moves
        # whole rows of cells, which costs half of gathering each cell's frames for a Conv1d.
        kernel = self.weight.unsqueeze(-1)
        mixed = functional.conv2d(cells, kernel, self.bias, padding=(1, 0))
        return mixed.transpose(1, 2).reshape(hidden_states.shape)


class FrameTimeEmbedding(nn.Module):
    """Embedding of when each frame of a segment happens, from 1/24 s to hours apart.

    Three groups of sinusoids: the time since the first frame in units of the mean spacing (where
    in the segment), the same time in seconds (how long, fading where a period is too short for
    the spacing to resolve), and the logarithm of the spacing (which level of the tree).

    Args:
        embed_dim: width of the embedding.
    """

    NUM_POSITIONS, NUM_SECONDS, NUM_SPACINGS = 8, 16, 8

    def __init__(self, embed_dim: int):
        super().__init__()
        num_features = 2 * (self.NUM_POSITIONS + self.NUM_SECONDS + self.NUM_SPACINGS)
        self.linear_1 = nn.Linear(num_features, embed_dim)
        self.linear_2 = nn.Linear(embed_dim, embed_dim)

    @classmethod
    def features(
        cls, frame_times: Float[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames features"]:
        """Return the fixed features of frame times in seconds, in float32.

        Only differences matter: a segment moved in time has the same features.
        """
        since = (frame_times - frame_times[:, :1]).float()
        # A single frame has no spacing; one second, whose logarithm is zero, stands for none.
        gaps = max(frame_times.shape[1] - 1, 1)
        spacing = since[:, -1:] / gaps if frame_times.shape[1] > 1 else torch.ones_like(since)
        spacing = spacing.clamp(min=1e-3)

        def log_spaced(first: float, last: float, count: int) -> Tensor:
            return torch.logspace(math.log10(first), math.log10(last), count, device=since.device)

        by_position = (since / spacing)[..., None] * log_spaced(1, 1 / 64, cls.NUM_POSITIONS)
        frequencies = 2 * math.pi * log_spaced(12, 1e-5, cls.NUM_SECONDS)  # periods 1/12 s - 28 h
        by_seconds = since[..., None] * frequencies
        fade = torch.exp(-0.125 * (spacing[..., None] * frequencies).square())
        octaves = 2 * math.pi * log_spaced(1 / 2, 1 / 64, cls.NUM_SPACINGS)
        by_spacing = (spacing.log2()[..., None] * octaves).expand(*since.shape, -1)
        return torch.cat(
            [
                by_position.sin(),
                by_position.cos(),
                by_seconds.sin() * fade,
                by_seconds.cos() * fade,
                by_spacing.sin(),
                by_spacing.cos(),
            ],
            dim=-1,
        )

    def forward(
        self, frame_times: Float[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch frames embed"]:
        """Return the embedding of frame times in seconds."""
        features = self.features(frame_times).to(self.linear_1.weight.dtype)
        return self.linear_2(functional.silu(self.linear_1(features)))


class UNetBlock(nn.Module):
    """Layers at one resolution: down block, mid block or up block by what is added around them.

    One layer is residual block, temporal convolution, injection (once a block), spatial and
    prompt attention, temporal attention: the order of the paper's section 3.2. The parameter
    names of the spatial parts are Stable Diffusion's.

    Args:
        resnet_channels: (in, out) of each residual block; in counts a concatenated skip.
        num_attentions: how many of them spatial attention follows, the first ones.
        shape: what the layers share.
        level: resolution, 0 the finest; chooses the given frames' features.
        downsample: halve the resolution at the end.
        upsample: double the resolution at the end.
        convolve_shortcut: in the first residual block, even where its widths agree.
    """

    def __init__(
        self,
        resnet_channels: list[tuple[int, int]],
        num_attentions: int,
        shape: BlockShape,
        *,
        level: int,
        downsample: bool = False,
        upsample: bool = False,
        convolve_shortcut: bool = False,
    ):
        super().__init__()
        self.level = level
        self.gradient_checkpointing = False
        out_channels = resnet_channels[-1][1]
        num_attentions = num_attentions if shape.with_attention else 0
        self.resnets = nn.ModuleList(
            _resnet(*pair, shape, convolve_shortcut=convolve_shortcut and index == 0)
            for index, pair in enumerate(resnet_channels)
        )
        if num_attentions:
            self.attentions = nn.ModuleList(
                _spatial_attention(out_channels, shape) for _ in range(num_attentions)
            )
        if shape.temporal:
            self.temporal_convs = nn.ModuleList(TemporalConv(c) for _, c in resnet_channels)
            self.temporal_attentions = nn.ModuleList(
                TemporalAttention(
                    out_channels, head_dim=shape.head_dim, frame_embed_dim=shape.temb_channels
                )
                for _ in range(num_attentions)
            )
        if shape.condition_channels is not None:
            self.injection = GivenFrameInjection(out_channels, shape.condition_channels)
        if downsample:
            self.downsamplers = nn.ModuleList(
                [Downsample2D(out_channels, use_conv=True, padding=1, name="op")]
            )
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels, use_conv=True, name="conv")])
        self.num_attentions = num_attentions
        self.temporal, self.injects = shape.temporal, shape.condition_channels is not None

    def layer(
        self,
        index: int,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        inputs: BlockInputs,
    ) -> Float[Tensor, "batch_frames out_channels height width"]:
        """Run one layer; `hidden_states` already holds its skip."""
        hidden_states = self._run(self._convolve, index, hidden_states, inputs)
        if index < self.num_attentions:
            hidden_states = self.attentions[index](
                hidden_states,
                encoder_hidden_states=inputs.encoder_hidden_states,
                cross_attention_kwargs=None if inputs.cache is None else {"cache": inputs.cache},
                return_dict=False,
            )[0]
            if self.temporal:
                attention = self.temporal_attentions[index]
                hidden_states = self._run(attention, hidden_states, inputs.frame_embedding)
        return hidden_states

    def _convolve(self, index: int, hidden_states: Tensor, inputs: BlockInputs) -> Tensor:
        hidden_states = self.resnets[index](hidden_states, inputs.temb)
        if self.temporal:
            assert inputs.frame_embedding is not None
            num_frames = inputs.frame_embedding.shape[1]
            hidden_states = self.temporal_convs[index](hidden_states, num_frames)
        if self.injects and index == 0:
            hidden_states = self.injection(
                hidden_states,
                inputs.condition_features[self.level],
                inputs.mask_features[self.level],
                inputs.cache,
            )
        return hidden_states

    def _run(self, function, *arguments) -> Tensor:
        """Call `function`, keeping only its inputs for the backward pass when asked to."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(function, *arguments)  # pyright: ignore
        return function(*arguments)


class DownBlock(UNetBlock):
    """Layers, each leaving a skip, then half the resolution."""

    def forward(
        self,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        inputs: BlockInputs,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the features and the skips for the up block of this resolution."""
        skips = []
        for index in range(len(self.resnets)):
            hidden_states = self.layer(index, hidden_states, inputs)
            skips.append(hidden_states)
        if hasattr(self, "downsamplers"):
            hidden_states = self.downsamplers[0](hidden_states)
            skips.append(hidden_states)
        return hidden_states, skips


class MidBlock(UNetBlock):
    """Layers at the coarsest resolution, between the way down and the way up."""

    def forward(
        self,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        inputs: BlockInputs,
    ) -> Float[Tensor, "batch_frames channels height width"]:
        """Return the features, shape unchanged."""
        for index in range(len(self.resnets)):
            hidden_states = self.layer(index, hidden_states, inputs)
        return hidden_states


class UpBlock(UNetBlock):
    """Layers, each reading a skip, then twice the resolution."""

    def forward(
        self,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        skips: list[Tensor],
        inputs: BlockInputs,
    ) -> Float[Tensor, "batch_frames out_channels out_height out_width"]:
        """Return the features; reads one skip per layer from the end of `skips`.

        What stands before them is of the next resolution, whose size the up-sampling matches.
        """
        for index in range(len(self.resnets)):
            hidden_states = torch.cat([hidden_states, skips[-1 - index]], dim=1)
            hidden_states = self.layer(index, hidden_states, inputs)
        if hasattr(self, "upsamplers"):
            size = tuple(skips[-1 - len(self.resnets)].shape[-2:])
            doubled = (2 * hidden_states.shape[-2], 2 * hidden_states.shape[-1])
            hidden_states = self.upsamplers[0](hidden_states, None if size == doubled else size)
        return hidden_states


def _resnet(
    in_channels: int, out_channels: int, shape: BlockShape, *, convolve_shortcut: bool
) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=shape.temb_channels,
        groups=shape.norm_num_groups,
        eps=RESNET_EPS,
        use_in_shortcut=convolve_shortcut or in_channels != out_channels,
        # The embedding goes through its activation once for all blocks, not once in each.
        skip_time_act=True,
    )


def _spatial_attention(channels: int, shape: BlockShape) -> SpatialTransformer:
    return SpatialTransformer(
        channels // shape.head_dim,
        shape.head_dim,
        in_channels=channels,
        cross_attention_dim=shape.cross_attention_dim,
        norm_num_groups=shape.norm_num_groups,
        use_linear_projection=shape.use_linear_projection,
    )
