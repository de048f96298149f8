"""How a network is told which frames are given and what they show (paper section 3.2).

Knows features, given latents and the mask over frames, not where the frames came from.
"""

import torch
from diffusers.models.controlnets.controlnet import zero_module
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.models.attention import Cache, once


class GivenFrameInjection(nn.Module):
    """Tells a block which frames are given and what they show (paper eqs. 10 and 11).

    `h = w_c * h + b_c + h`, then `h = w_m * h + b_m + h`, with (w_c, b_c) from the given latents'
    features and (w_m, b_m) from the mask's. Both maps start at zero, so an untrained injection
    leaves the pretrained image U-Net as it was.

    Args:
        channels: width of the block's features.
        condition_channels: width of the features of given latents and mask.
    """

    def __init__(self, channels: int, condition_channels: int):
        super().__init__()
        self.condition_conv = zero_module(nn.Conv2d(condition_channels, 2 * channels, 1))
        # The mask is constant over a frame, so its 1x1 convolution is a linear map per frame.
        self.mask_proj = zero_module(nn.Linear(condition_channels, 2 * channels))

    def forward(
        self,
        hidden_states: Float[Tensor, "batch_frames channels height width"],
        condition: Float[Tensor, "batch_frames condition height width"],
        mask: Float[Tensor, "batch_frames condition"],
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch_frames channels height width"]:
        """Scale and shift the features, by cell for the latents and by frame for the mask."""
        by_cell, by_frame = once(
            cache, self, lambda: (self.condition_conv(condition), self.mask_proj(mask))
        )
        weight, bias = by_cell.chunk(2, dim=1)
        hidden_states = torch.addcmul(bias + hidden_states, weight, hidden_states)
        weight, bias = by_frame[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(bias, hidden_states, 1 + weight)


class GivenFrameEncoder(nn.Module):
    """Features of given latents and of the mask at every resolution of the U-Net.

    A cascade of convolutions that halves the resolution where the U-Net does (section 3.2). The
    mask is constant over each frame, so its cascade runs over frames alone, which also tells a
    frame how far the nearest given ones are.

    Args:
        in_channels: channels of the latents.
        channels: width of all features.
        num_levels: resolutions of the U-Net.
    """

    def __init__(self, in_channels: int, channels: int, num_levels: int):
        super().__init__()
        self.condition_convs = nn.ModuleList(
            nn.Conv2d(channels if k else in_channels, channels, 3, stride=2 if k else 1, padding=1)
            for k in range(num_levels)
        )
        self.mask_convs = nn.ModuleList(
            nn.Conv1d(channels if k else 1, channels, 3, padding=1) for k in range(num_levels)
        )

    def forward(
        self,
        given_latents: Float[Tensor, "batch frames channels height width"],
        conditioning_mask: Float[Tensor, "batch frames"],
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return (condition features, mask features), each one tensor per resolution.

        Args:
            given_latents: latents of the given frames, zero elsewhere.
            conditioning_mask: 1 where a frame is given, else 0.
        """
        condition, mask = given_latents.flatten(0, 1), conditioning_mask.unsqueeze(1)
        condition_features, mask_features = [], []
        for condition_conv, mask_conv in zip(self.condition_convs, self.mask_convs, strict=True):
            condition = functional.silu(condition_conv(condition))
            mask = functional.silu(mask_conv(mask))
            condition_features.append(condition)
            mask_features.append(mask.transpose(1, 2).flatten(0, 1))
        return tuple(condition_features), tuple(mask_features)
