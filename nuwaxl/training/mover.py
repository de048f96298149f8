"""Stage `mover`: the latents of moved pictures, from pictures that are moved by known distances."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nuwaxl.data.frames import FramesConfig
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.latent_mover import LatentMover, in_view, moved
from nuwaxl.training.autoencoder import to_unit_range
from nuwaxl.training.clips import reading
from nuwaxl.training.loop import LoopConfig
from nuwaxl.training.prepared import check_picture_size, checked_frames

logger = logging.getLogger(__name__)

_PICTURES_AT_ONCE = 32


@dataclass(frozen=True)
class MoverConfig:
    """Sizes of the mover; see `LatentMover`."""

    channels: int = 96
    fine_channels: int = 24
    upscale: int = 4


@dataclass(frozen=True)
class MoverTraining:
    """The stage `mover`."""

    vae: str = "out/autoencoder/model"
    """Encodes pictures and moved pictures; stays as it is."""
    data: FramesConfig = field(default_factory=FramesConfig)
    model: MoverConfig = field(default_factory=MoverConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    num_pictures: int = 12800
    """Encoded once, as they are and moved, and kept in the stage's folder."""
    furthest: tuple[float, float] = (0.32, 0.13)
    """Longest motion along a row and along a column, as shares of the picture."""
    shares: tuple[float, float] = (0.85, 0.4)
    """Of the pictures that move along a row, and along a column; the others stay."""

    def __post_init__(self) -> None:
        """Refuse motions that leave nothing to see."""
        if self.num_pictures < 1:
            raise ValueError(f"`num_pictures` must be at least 1, got {self.num_pictures}.")
        for name in ("furthest", "shares"):
            if not all(0 <= value <= 1 for value in getattr(self, name)):
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}.")


class MoverStage:
    """MSE between moved latents and the latents of moved pictures, where these show the old."""

    def __init__(self, config: MoverTraining):
        self.config = config
        file = Path(config.loop.output_dir) / "pictures.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(self._encode(), file)
        self.pictures = load_file(file)
        self.model = LatentMover(
            in_channels=self.pictures["still"].shape[1],
            channels=config.model.channels,
            fine_channels=config.model.fine_channels,
            upscale=config.model.upscale,
        )

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Latents of random pictures, of the same ones moved, and by how much."""
        rng = np.random.default_rng((self.config.loop.seed, 1, index))
        rows = torch.from_numpy(rng.integers(len(self.pictures["motion"]), size=batch_size))
        return {name: values[rows].float() for name, values in self.pictures.items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare in the cells that came from within the picture.

        Beside it what two ways without a mover would leave: latents moved by bilinear interpolation
        (`bilinear`), and not at all (`unmoved`).
        """
        still, target, motion = batch["still"], batch["moved"], batch["motion"]
        inside = in_view(motion, *target.shape[-2:]).unsqueeze(1)

        def error(latents: Tensor) -> Tensor:
            squared = (latents.float() - target).square()
            return (squared * inside).sum() / inside.expand_as(squared).sum().clamp(min=1)

        baselines = {"bilinear": error(moved(still, motion)), "unmoved": error(still)}
        return error(model(still, motion)), baselines

    def save(self, folder: Path) -> None:
        """Write the mover."""
        self.model.save_pretrained(folder)

    @torch.no_grad()
    def _encode(self) -> dict[str, Tensor]:
        """`still` and `moved` latents (pictures, c, h, w), and `motion` in half pictures."""
        config = self.config
        with reading("vae", config.vae):
            vae = TemporalAutoencoderKL.from_pretrained(config.vae).eval()
        check_picture_size(config.data.dataset, vae)
        frames = checked_frames(config.data, seed=config.loop.seed)
        rng = np.random.default_rng((config.loop.seed, 0))
        rows: dict[str, list[Tensor]] = {"still": [], "moved": [], "motion": []}
        for start in range(0, config.num_pictures, _PICTURES_AT_ONCE):
            count = min(_PICTURES_AT_ONCE, config.num_pictures - start)
            pictures = to_unit_range(frames.clips(start, count)[0])[:, 0]
            motion = 2 * np.array(config.furthest) * rng.uniform(-1, 1, (count, 2))
            motion *= rng.random((count, 2)) < np.array(config.shares)
            motion = torch.from_numpy(motion).float()
            pairs = torch.stack([pictures, moved(pictures, motion)], dim=1)
            with torch.autocast("cpu", torch.bfloat16):
                latents = vae.encode_latents(pairs)
            for name, values in zip(rows, (latents[:, 0], latents[:, 1], motion), strict=True):
                rows[name].append(values.half() if name != "motion" else values)
        logger.info("encoded %d pictures and their moved copies", config.num_pictures)
        return {name: torch.cat(parts).contiguous() for name, parts in rows.items()}
