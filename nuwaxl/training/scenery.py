"""Stage `scenery`: what places look like along the camera's way, and where and how fast it is.

Knows clips whose camera is known, not the networks that are shown the sketches.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from nuwaxl.config import ConfigError
from nuwaxl.models.scenery import SceneryModel, turns
from nuwaxl.training.clips import Clips, ClipsTraining

_SPREAD = 0.6
"""How widely a true speed counts for its neighbours, in steps from one speed to the next."""


@dataclass(frozen=True)
class SceneryConfig:
    """Sizes of the model; see `SceneryModel`."""

    channels: int = 96
    hidden_dim: int = 64
    reader_channels: int = 48
    view: float = 0.284
    max_speed: float = 0.08
    num_speeds: int = 65


@dataclass(frozen=True)
class SceneryTraining(ClipsTraining):
    """The stage `scenery`."""

    model: SceneryConfig = field(default_factory=SceneryConfig)
    most_noise: float = 0.6
    """Standard deviation of the noise on latents that are read, at most: made frames are no
    renders."""


class SceneryStage:
    """MSE of the sketch, angle of the position that is read, cross-entropy of the speed."""

    def __init__(self, config: SceneryTraining):
        self.config = config
        self.clips = Clips(config)
        if all(part["camera"].isnan().all() for part in self.clips.strips.parts):
            raise ConfigError(
                "`strips` must hold frames whose camera is known, and these hold none: prepared"
                " videos do not tell it, the toon world (an empty `dataset`) does."
            )
        tokens, width = self.clips.prompt_shape
        *_, channels, height, columns = self.clips.strips.parts[0]["latents"].shape
        self.model = SceneryModel(
            in_channels=channels,
            height=height,
            width=columns,
            prompt_dim=tokens * width,
            **asdict(config.model),
        )

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Clips, and how much noise each is read through."""
        rng = np.random.default_rng((self.config.loop.seed, index))
        batch = self.clips.draw(rng, batch_size)
        batch["noise"] = torch.from_numpy(rng.random(batch_size).astype(np.float32))
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Of frames whose camera is known; of the speed where two of them tell it."""
        latents, camera, prompts = batch["latents"], batch["camera"], batch["embeds"].flatten(2)
        level = self.config.most_noise * batch["noise"]
        noisy = latents + rearrange(level, "b -> b 1 1 1 1") * torch.randn_like(latents)
        known = ~camera.flatten().isnan()
        positions = camera.flatten().nan_to_num()
        sketch, read, logits = model(noisy.flatten(0, 1), prompts.flatten(0, 1), positions)

        error = (sketch.float() - latents.flatten(0, 1)).square().mean(dim=(1, 2, 3))[known].mean()
        angles = 2 * math.pi * positions
        true = torch.stack([angles.sin(), angles.cos()], dim=-1)
        apart = (read.float() - true).square().sum(-1)[known].mean()
        missed = turns(read.detach().float()) - positions
        missed = (missed - missed.round()).abs()[known].median()
        told, slow = self._speed(logits.float().unflatten(0, camera.shape), prompts, batch)
        losses = {"mse": error.detach(), "position_error": missed, "speed_error": slow}
        return error + apart + told, losses

    def _speed(
        self, logits: Tensor, prompts: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the median error in turns per second, of frames with a next one."""
        between = batch["frame_times"].diff(dim=1).clamp(min=1e-6)
        passed = batch["camera"].diff(dim=1)
        speed = (passed - passed.round()) / between
        alike = (prompts[:, 1:] == prompts[:, :-1]).all(-1)
        # Over half a turn it could as well have gone the other way.
        sure = alike & ~speed.isnan() & (between * self.config.model.max_speed < 0.5)
        logits, speed, speeds = logits[:, :-1][sure], speed[sure], self.model.speeds
        if not len(logits):
            return logits.sum(), logits.new_zeros(())
        steps = (speed[:, None] - speeds) / (speeds[1] - speeds[0])
        wanted = (-0.5 * (steps / _SPREAD).square()).softmax(-1)
        slow = (self.model.likeliest(logits.detach()) - speed).abs().median()
        return functional.cross_entropy(logits, wanted), slow

    def save(self, folder: Path) -> None:
        """Write the model."""
        self.model.save_pretrained(folder)
