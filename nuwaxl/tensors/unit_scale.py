"""8-bit pixels as numbers from -1 to 1 and back, exactly.

Knows values, not pictures.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit_scale(pixels: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """8-bit values as numbers from -1 to 1; `to_eight_bit` gives back exactly these."""
    return pixels.float() / 127.5 - 1


def to_eight_bit(latents: Float[Tensor, "*any"]) -> UInt8[Tensor, "*any"]:
    """Numbers from -1 to 1 as 8-bit values, rounded; what is beyond is cut off."""
    return ((latents.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
