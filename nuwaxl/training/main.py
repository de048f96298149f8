"""From a stage's name and a config file to a trained folder.

Knows which dataclass and which class belong to a stage, not what they do.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nuwaxl.config import ConfigError, load_config
from nuwaxl.parts.components import BUNDLED
from nuwaxl.training.autoencoder import AutoencoderStage, AutoencoderTraining
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining
from nuwaxl.training.estimator import EstimatorStage, EstimatorTraining
from nuwaxl.training.loop import Stage
from nuwaxl.training.loop import train as run
from nuwaxl.training.mover import MoverStage, MoverTraining
from nuwaxl.training.processes import first_process_first
from nuwaxl.training.prompts import PromptsStage, PromptsTraining
from nuwaxl.training.scenery import SceneryStage, SceneryTraining

logger = logging.getLogger(__name__)

DIFFUSION = ("image", "global", "local")
STAGES: dict[str, tuple[type[Any], Callable[[Any], Stage]]] = {
    "autoencoder": (AutoencoderTraining, AutoencoderStage),
    "prompts": (PromptsTraining, PromptsStage),
    "image": (DiffusionTraining, DiffusionStage),
    "global": (DiffusionTraining, DiffusionStage),
    "local": (DiffusionTraining, DiffusionStage),
    "scenery": (SceneryTraining, SceneryStage),
    "mover": (MoverTraining, MoverStage),
    "estimator": (EstimatorTraining, EstimatorStage),
}


def train(
    stage: str,
    config_file: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> int:
    """Train a stage and write `model/` in its output folder; a stopped run goes on.

    Args:
        stage: a key of `STAGES`.
        config_file: YAML with what differs from the defaults; None: the defaults.
        overrides: `key=value` settings that win over the file's.
        on_log: called with each row of the training curves.

    Returns:
        Optimizer steps done in total.

    Raises:
        ValueError: an unknown stage, or settings that are wrong.
    """
    config = read_training(stage, config_file, overrides)
    with first_process_first():
        torch.manual_seed(config.loop.seed)  # of new layers' weights
        built = STAGES[stage][1](config)
    return run(built, config.loop, on_log=on_log)


def read_training(stage: str, config_file: str | Path | None, overrides: Sequence[str] = ()) -> Any:
    """A stage's settings as it is trained with them; arguments and errors as of `train`.

    Args:
        stage: a key of `STAGES`.
        config_file: YAML with what differs from the defaults; None: the defaults.
        overrides: `key=value` settings that win over the file's.
    """
    if stage not in STAGES:
        raise ValueError(f"`stage` must be one of {', '.join(STAGES)}, got {stage!r}.")
    config = load_config(STAGES[stage][0], config_file, overrides)
    if stage == "image" and config.temporal:
        config = dataclasses.replace(config, temporal=False, num_frames=((1.0, 1, 1),), given={})
    if stage in DIFFUSION and config.lora.rank:
        config = _for_lora(stage, config)
    return config


def _for_lora(stage: str, config: DiffusionTraining) -> DiffusionTraining:
    """The settings with the role of the stage, and the bundled network where none is named.

    Raises:
        ConfigError: a stage whose network is no part of a pipeline.
    """
    if stage == "image":
        raise ConfigError(
            "`lora.rank` is for the stages global and local, whose networks a pipeline holds; got"
            " the stage image."
        )
    role = f"{stage}_unet"
    base = config.base or str(BUNDLED / role)
    return dataclasses.replace(config, base=base, lora=dataclasses.replace(config.lora, role=role))
