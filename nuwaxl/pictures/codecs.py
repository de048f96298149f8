"""Pictures to the latents that a film is made of, and back.

Knows one frame or a few neighbours at a time, not films, prompts or how latents are made.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.tensors.devices import autocast
from nuwaxl.tensors.fingerprint import fingerprint, module_fingerprint
from nuwaxl.tensors.unit_scale import to_eight_bit, to_unit_scale


@runtime_checkable
class FrameCodec(Protocol):
    """What latents are to a segment model: the bundled one's come from a VAE, others are pixels."""

    @property
    def fingerprint(self) -> str:
        """Changes when a picture would become other latents."""
        ...

    def encode(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> Float[Tensor, "channels latent_height latent_width"]:
        """Latents of one picture, in fp32 on the CPU."""
        ...

    def decode(self, windows: Sequence[Tensor]) -> list[Float[Tensor, "frames 3 height width"]]:
        """Pixels in [0, 1] of each window of neighbouring frames, on the CPU.

        Args:
            windows: latents (frames, channels, height, width) of each.
        """
        ...


class VaeCodec:
    """Latents of a VAE, whose decoder sees a window's frames together.

    Args:
        vae: both ways.
        device: where it runs.
        dtype: precision of the decoder's products.
    """

    def __init__(
        self, vae: TemporalAutoencoderKL, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.vae = vae
        self.device = device
        self.dtype = dtype

    @property
    def fingerprint(self) -> str:
        """The hash of the VAE's weights."""
        return module_fingerprint(self.vae)

    @torch.no_grad()
    def encode(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> Float[Tensor, "channels latent_height latent_width"]:
        """Latents of one picture, in fp32: it is seen as long as the film is."""
        frames = torch.from_numpy(picture.copy()).to(self.device, torch.float32) / 127.5 - 1
        frames = rearrange(frames, "h w c -> 1 1 c h w").to(self.vae.dtype)
        return self.vae.encode_latents(frames)[0, 0].float().cpu()

    @torch.no_grad()
    def decode(self, windows: Sequence[Tensor]) -> list[Float[Tensor, "frames 3 height width"]]:
        """Pixels of each window; those of one length are decoded together."""
        rows_by_length: dict[int, list[int]] = {}
        for row, latents in enumerate(windows):
            rows_by_length.setdefault(latents.shape[0], []).append(row)
        pixels: dict[int, Tensor] = {}
        for rows in rows_by_length.values():
            batch = torch.stack([windows[row] for row in rows]).to(self.device)
            with autocast(self.device, self.dtype):
                decoded = self.vae.decode_latents(batch)
            decoded = (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()
            pixels |= dict(zip(rows, decoded, strict=True))
        return [pixels[row] for row in range(len(windows))]


class PixelCodec:
    """Latents that are the picture itself, in [-1, 1]: there and back is exact."""

    fingerprint = fingerprint(["pixels", 1])

    def encode(self, picture: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 h w"]:
        """The picture at unit scale."""
        return to_unit_scale(torch.from_numpy(rearrange(picture, "h w c -> c h w").copy()))

    def decode(self, windows: Sequence[Tensor]) -> list[Float[Tensor, "frames 3 height width"]]:
        """The pixels that the latents are."""
        return [to_eight_bit(latents).float() / 255 for latents in windows]
