"""Latents of a moved picture from those of the picture: motion finer than a latent's cells.

Knows latents and motions, not what moves and not when.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Fine = Float[Tensor, "frames fine_channels fine_height fine_width"]


class LatentMover(ModelMixin, ConfigMixin):
    """Gives the latents that a frame would have if its picture were moved.

    A latent's cell stands for many pixels, and what it holds of them changes in no simple way when
    they move by a few: latents moved by bilinear interpolation are far from those of the moved
    picture. So latents are unfolded to finer features, which are moved and folded to latents again.

    Args:
        in_channels: channels of the latents.
        channels: width of the layers.
        fine_channels: channels of the fine features.
        upscale: cells of the fine features along a side of a latent's cell.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        channels: int = 96,
        fine_channels: int = 24,
        upscale: int = 4,
    ):
        super().__init__()
        packed = fine_channels * upscale**2
        self.unfold = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, packed, 1),
            nn.PixelShuffle(upscale),
        )
        self.fold = nn.Sequential(
            nn.PixelUnshuffle(upscale),
            nn.Conv2d(packed, channels, 1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, in_channels, 1),
        )

    def forward(
        self,
        latents: Float[Tensor, "frames channels height width"],
        motion: Float[Tensor, "frames 2"],
    ) -> Float[Tensor, "frames channels height width"]:
        """Return the latents of the moved pictures; what comes in at an edge repeats the edge.

        Args:
            latents: of the pictures.
            motion: from where each shows, to the right and down, in half pictures: a positive
                motion moves what is seen to the left and up.
        """
        return self.folded(self.unfold(latents), motion)

    def folded(self, fine: Fine, motion: Float[Tensor, "frames 2"]) -> Tensor:
        """The latents of the moved pictures, from what `unfold` makes of the latents.

        Args:
            fine: of the pictures.
            motion: as for `forward`.
        """
        return self.fold(moved(fine, motion))


def moved(
    values: Float[Tensor, "frames channels height width"], motion: Float[Tensor, "frames 2"]
) -> Float[Tensor, "frames channels height width"]:
    """Pictures, or features of them, moved; what comes in at an edge repeats the edge.

    Args:
        values: of any range and any channels.
        motion: as `LatentMover` takes it.
    """
    places = cell_centres(values.shape[-2], values.shape[-1], values.device) + motion[:, None, None]
    # In float32: half of bf16's digits would be spent on which cell is meant.
    result = functional.grid_sample(
        values.float(), places.float(), align_corners=False, padding_mode="border"
    )
    return result.to(values.dtype)


def in_view(
    motion: Float[Tensor, "frames 2"], height: int, width: int
) -> Bool[Tensor, "frames height width"]:
    """Which cells of moved frames show what was within the frame before.

    Args:
        motion: as `LatentMover` takes it.
        height: in cells.
        width: in cells.
    """
    places = cell_centres(height, width, motion.device) + motion[:, None, None]
    return (places.abs() <= 1).all(dim=-1)


def cell_centres(
    height: int, width: int, device: torch.device
) -> Float[Tensor, "1 height width 2"]:
    """Columns and rows of cells, from -1 to 1 edge to edge, as `grid_sample` has them.

    Args:
        height: in cells.
        width: in cells.
        device: where they are wanted.
    """
    rows = (torch.arange(height, device=device) + 0.5) * 2 / height - 1
    columns = (torch.arange(width, device=device) + 0.5) * 2 / width - 1
    grid = [repeat(columns, "w -> h w", h=height), repeat(rows, "h -> h w", w=width)]
    return torch.stack(grid, dim=-1)[None]
