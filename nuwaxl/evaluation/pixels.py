"""Frames as networks and as pictures want them.

Knows sizes and ranges, not contents.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def to_tensor(
    frames: UInt8[np.ndarray, "frames height width 3"],
) -> Float[Tensor, "frames 3 height width"]:
    """Pixels in [-1, 1].

    Args:
        frames: 8-bit RGB.
    """
    return rearrange(torch.from_numpy(frames), "f h w c -> f c h w").float() / 127.5 - 1


def to_uint8(
    pixels: Float[Tensor, "frames 3 height width"],
) -> UInt8[np.ndarray, "frames height width 3"]:
    """8-bit RGB of pixels in [-1, 1].

    Args:
        pixels: of several frames.
    """
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "f c h w -> f h w c").cpu().numpy()


def resized(
    frames: UInt8[np.ndarray, "frames height width 3"], size: int
) -> UInt8[np.ndarray, "frames size size 3"]:
    """Frames of another size, smoothed where it is smaller; as they are when they have it.

    Args:
        frames: 8-bit RGB.
        size: height and width, in pixels.
    """
    if frames.shape[1:3] == (size, size):
        return frames
    pixels = rearrange(torch.from_numpy(frames), "f h w c -> f c h w").float()
    sized = nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return rearrange(sized.round().to(torch.uint8), "f c h w -> f h w c").numpy()


def soften(
    frames: Float[Tensor, "frames 3 height width"], factor: int
) -> Float[Tensor, "frames 3 height width"]:
    """Frames with the detail of a resolution `factor` times lower.

    Args:
        frames: pixels.
        factor: how much lower.
    """
    small = nn.functional.avg_pool2d(frames, factor, ceil_mode=True, count_include_pad=False)
    return nn.functional.interpolate(small, frames.shape[-2:], mode="bilinear")
