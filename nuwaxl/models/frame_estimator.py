"""A first estimate of the frames between given ones: the given frames, moved and chosen from.

Knows latents, frame times and prompt embeddings, not noise levels and not what denoises.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.controlnets.controlnet import zero_module
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.blocks import FrameTimeEmbedding
from nuwaxl.models.latent_mover import LatentMover, in_view

_NUM_GROUPS = 8
_EMBED_DIM = 128
_FURTHEST = 2.0
"""How far a motion can reach, in half pictures: a frame moved further shows nothing."""
_MOVED = -2.0
"""What a moved frame is given less than one at rest, as a logit: at the start nothing is known of
motions."""
_NEVER = -1e9


class FrameEstimator(ModelMixin, ConfigMixin):
    """Estimates every new frame from the given frames before and after it, by regression.

    What the ends of a segment decide about the frames between needs no diffusion: it is found once
    per segment, at a fraction of one step's work, and the denoiser adds what they leave open. Each
    cell of an estimate is chosen from both given neighbours, as they are and moved (backward
    warping, as in frame interpolation, by motions that follow from prompt and time), and then
    corrected. At the start the neighbours are blended by time. A new frame with one neighbour has
    that one alone; one with none has no estimate (zeros).

    Args:
        in_channels: channels of the latents.
        channels: width of the layers, a multiple of 8.
        prompt_dim: numbers in a frame's prompt embedding, tokens times width.
        num_blocks: residual blocks that choose and correct.
        num_motions: motions that each neighbour is moved by.
        mover: settings of the `LatentMover`; `in_channels` are the latents'.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        channels: int = 96,
        prompt_dim: int = 1280,
        num_blocks: int = 3,
        num_motions: int = 2,
        mover: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.num_motions = num_motions
        self.latent_mover = LatentMover(**{"in_channels": in_channels} | dict(mover or {}))
        self.frame_time_embedding = FrameTimeEmbedding(_EMBED_DIM)
        self.prompt_proj = nn.Linear(prompt_dim, _EMBED_DIM)
        # By how much the prompt changes from a neighbour: at a cut, its picture says nothing.
        self.change_proj = nn.Linear(prompt_dim, _EMBED_DIM, bias=False)
        self.linear_1 = nn.Linear(_EMBED_DIM, _EMBED_DIM)
        self.linear_2 = nn.Linear(2 * _EMBED_DIM, _EMBED_DIM)
        self.velocity = nn.Linear(_EMBED_DIM, 2 * num_motions)
        self.side_share = zero_module(nn.Linear(_EMBED_DIM, 1))
        num_choices = 2 * (1 + num_motions)
        self.conv_in = nn.Conv2d(num_choices * (in_channels + 1), channels, 1)
        self.blocks = nn.ModuleList(_ResidualBlock(channels) for _ in range(num_blocks))
        self.choice = zero_module(nn.Conv2d(channels, num_choices, 1))
        self.conv_out = zero_module(nn.Conv2d(channels, in_channels, 1))
        nn.init.zeros_(self.velocity.weight)
        # Both ways along a row, by a sixth of the picture per second: what most pans are near.
        sideways = torch.linspace(-1 / 3, 1 / 3, num_motions) if num_motions > 1 else torch.zeros(1)
        start = torch.stack([sideways, torch.zeros_like(sideways)], dim=1).flatten()
        with torch.no_grad():
            self.velocity.bias.copy_(start)

    def forward(
        self,
        given_latents: Float[Tensor, "batch frames channels height width"],
        conditioning_mask: Float[Tensor, "batch frames"],
        frame_times: Float[Tensor, "batch frames"],
        encoder_hidden_states: Float[Tensor, "batch frames tokens dim"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Return the given latents where a frame is given, else its estimate.

        Args:
            given_latents: latents of the given frames, anything elsewhere.
            conditioning_mask: 1 where a frame is given, else 0.
            frame_times: seconds.
            encoder_hidden_states: prompt embeddings, one prompt per frame.
        """
        is_given = conditioning_mask > 0
        given = is_given[..., None, None, None]
        given_latents = torch.where(given, given_latents, 0)
        neighbours, there = _neighbours(is_given)
        since = (frame_times - _of(frame_times, neighbours)).float() * there  # seconds
        prompts = encoder_hidden_states.flatten(2)
        changes = self.change_proj(prompts - _of(prompts, neighbours)) * there[..., None]
        by_side = self.frame_time_embedding(frame_times) + self.prompt_proj(prompts) + changes
        by_side = functional.silu(self.linear_1(functional.silu(by_side)))
        embedding = functional.silu(self.linear_2(torch.cat(list(by_side), dim=-1)))

        choices, inside = self._choices(given_latents, neighbours, since, embedding)
        hidden = rearrange(choices, "k n c h w -> n (k c) h w")
        seen = rearrange(inside, "k n h w -> n k h w").to(hidden)
        hidden = self.conv_in(torch.cat([hidden, seen], dim=1))
        for block in self.blocks:
            hidden = block(hidden, embedding.flatten(0, 1))
        hidden = functional.silu(hidden)

        # By time alone at the start: of two neighbours the nearer one has the larger share.
        nearer = since.abs().flip(0).clamp(min=1e-6).log() + self.side_share(by_side)[..., 0]
        nearer = nearer.float().masked_fill(~there, _NEVER)
        logits = rearrange(self.choice(hidden).float(), "n (s m) h w -> s m n h w", s=2)
        logits = logits + rearrange(nearer, "s b f -> s 1 (b f) 1 1")
        logits = torch.cat([logits[:, :1], logits[:, 1:] + _MOVED], dim=1).flatten(0, 1)
        shares = logits.masked_fill(~inside, _NEVER).softmax(dim=0)
        estimate = (shares.unsqueeze(2) * choices).sum(0) + self.conv_out(hidden)
        estimate = estimate.unflatten(0, is_given.shape) * there.any(0)[..., None, None, None]
        return torch.where(given, given_latents, estimate).to(given_latents.dtype)

    def _choices(
        self,
        given_latents: Float[Tensor, "batch frames channels height width"],
        neighbours: Int64[Tensor, "side batch frames"],
        since: Float[Tensor, "side batch frames"],
        embedding: Float[Tensor, "batch frames embed"],
    ) -> tuple[
        Float[Tensor, "choices batch_frames channels height width"],
        Bool[Tensor, "choices batch_frames height width"],
    ]:
        """Each neighbour as it is and moved, and where that shows anything of it."""
        velocity = rearrange(self.velocity(embedding).float(), "b f (m xy) -> m b f xy", xy=2)
        fine = self.latent_mover.unfold(given_latents.flatten(0, 1)).unflatten(0, since.shape[1:])
        height, width = given_latents.shape[-2:]
        choices, inside = [], []
        for side in range(2):
            still = _of(given_latents, neighbours[side]).flatten(0, 1)
            choices.append(still)
            inside.append(torch.ones_like(still[:, 0], dtype=torch.bool))
            source = _of(fine, neighbours[side]).flatten(0, 1)
            for each in velocity:
                motion = (each * since[side][..., None]).clamp(-_FURTHEST, _FURTHEST).flatten(0, 1)
                choices.append(self.latent_mover.folded(source, motion).to(still.dtype))
                inside.append(in_view(motion, height, width))
        return torch.stack(choices), torch.stack(inside)


def estimator_of_network(settings: Mapping[str, Any], *, temporal: bool) -> FrameEstimator:
    """The estimator that a network's settings tell of.

    Args:
        settings: arguments of `FrameEstimator`.
        temporal: whether the network has temporal layers.

    Raises:
        ValueError: it has none.
    """
    if not temporal:
        raise ValueError(
            "`estimator` must be None with `temporal=False`: an image network has no frames "
            "between others to estimate."
        )
    return FrameEstimator(**settings)


class _ResidualBlock(nn.Module):
    """Two convolutions, told prompt and time by scale and shift; the identity at the start."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(_NUM_GROUPS, channels, affine=False)
        self.modulation = nn.Linear(_EMBED_DIM, 2 * channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = zero_module(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, dim=1)
        new = functional.silu(torch.addcmul(shift, self.norm(hidden), 1 + scale))
        return hidden + self.conv_2(functional.silu(self.conv_1(new)))


def _neighbours(
    is_given: Bool[Tensor, "batch frames"],
) -> tuple[Int64[Tensor, "side batch frames"], Bool[Tensor, "side batch frames"]]:
    """Numbers of the given frames before (or at) and after (or at) each frame; are there any."""
    num_frames = is_given.shape[1]
    numbers = torch.arange(num_frames, device=is_given.device).expand_as(is_given)
    before = torch.where(is_given, numbers, -1).cummax(dim=1).values
    after = torch.where(is_given, numbers, num_frames).flip(1).cummin(dim=1).values.flip(1)
    found = torch.stack([before, after])
    return found.clamp(0, num_frames - 1), (found >= 0) & (found < num_frames)


def _of(values: Tensor, frames: Int64[Tensor, "... batch frames"]) -> Tensor:
    """The values (batch, frames, ...) of other frames of the same segments."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, frames]
