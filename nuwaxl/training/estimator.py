"""Stage `estimator`: the frames between given ones, as far as these decide them, by regression."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from nuwaxl.models.backbones import model_settings
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.models.latent_mover import LatentMover
from nuwaxl.training.clips import Clips, ClipsTraining, reading

_LEAST_CHANGE = 0.1
"""Variance over time, of latents of unit variance, below which all clips weigh the same."""


@dataclass(frozen=True)
class EstimatorConfig:
    """Sizes of the estimator; see `FrameEstimator`."""

    channels: int = 96
    num_blocks: int = 3
    num_motions: int = 2


@dataclass(frozen=True)
class EstimatorTraining(ClipsTraining):
    """The stage `estimator`."""

    model: EstimatorConfig = field(default_factory=EstimatorConfig)
    mover: str = "out/mover/model"
    """Folder of the `LatentMover` that it moves given frames with, and that learns on with it."""
    base: str = ""
    """Folder of an estimator to start from; its sizes and its mover replace `model` and `mover`."""


class EstimatorStage:
    """MSE of the new frames' estimates, which is that of a denoiser that is shown pure noise."""

    def __init__(self, config: EstimatorTraining):
        self.config = config
        self.clips = Clips(config)
        self.model = _build(config, self.clips)

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Clips, what is given of them, and where the prompt is dropped."""
        return self.clips.draw(np.random.default_rng((self.config.loop.seed, index)), batch_size)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the estimates with the frames."""
        latents, mask = batch["latents"], batch["mask"]
        is_given = rearrange(mask, "b f -> b f 1 1 1")
        estimate = model(latents * is_given, mask, batch["frame_times"], batch["embeds"])
        error = (estimate.float() - latents).square()
        # A clip that shows nothing of the new frames has no estimate to learn.
        new = (1 - is_given) * mask.amax(dim=1).view(-1, 1, 1, 1, 1)
        cells = new * (1 + self.config.actor_weight * batch["actor"].unsqueeze(2))
        plain = (error * new).sum() / new.expand_as(error).sum().clamp(min=1)
        # Relative to how much a clip changes: else frames far apart, of which little can be known,
        # would drown those that the given ones decide.
        change = latents.var(dim=1, unbiased=False).mean(dim=(1, 2, 3))
        cells = cells / (_LEAST_CHANGE + change).view(-1, 1, 1, 1, 1)
        loss = (error * cells).sum() / cells.expand_as(error).sum().clamp(min=1e-6)
        return loss, {"mse": plain.detach()}

    def save(self, folder: Path) -> None:
        """Write the estimator."""
        self.model.save_pretrained(folder)


def _build(config: EstimatorTraining, clips: Clips) -> FrameEstimator:
    if config.base:
        with reading("base", config.base):
            return FrameEstimator.from_pretrained(config.base)
    with reading("mover", config.mover):
        mover = LatentMover.from_pretrained(config.mover)
    tokens, width = clips.prompt_shape
    estimator = FrameEstimator(
        in_channels=clips.latent_channels,
        prompt_dim=tokens * width,
        channels=config.model.channels,
        num_blocks=config.model.num_blocks,
        num_motions=config.model.num_motions,
        mover=model_settings(mover),
    )
    estimator.latent_mover.load_state_dict(mover.state_dict())
    return estimator
