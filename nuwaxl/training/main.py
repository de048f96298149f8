"""From a stage's name and a config file to a trained folder.

Knows which dataclass and which class belong to a stage, not what they do.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nuwaxl.config import load_config
from nuwaxl.training.autoencoder import AutoencoderStage, AutoencoderTraining
from nuwaxl.training.diffusion import DiffusionStage, DiffusionTraining
from nuwaxl.training.loop import Stage
from nuwaxl.training.loop import train as run
from nuwaxl.training.prompts import PromptsStage, PromptsTraining

logger = logging.getLogger(__name__)

STAGES: dict[str, tuple[type[Any], Callable[[Any], Stage]]] = {
    "autoencoder": (AutoencoderTraining, AutoencoderStage),
    "prompts": (PromptsTraining, PromptsStage),
    "image": (DiffusionTraining, DiffusionStage),
    "global": (DiffusionTraining, DiffusionStage),
    "local": (DiffusionTraining, DiffusionStage),
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
    if stage not in STAGES:
        raise ValueError(f"`stage` must be one of {', '.join(STAGES)}, got {stage!r}.")
    schema, build = STAGES[stage]
    config = load_config(schema, config_file, overrides)
    if stage == "image" and config.temporal:
        config = dataclasses.replace(config, temporal=False, num_frames=((1.0, 1, 1),), given={})
    return run(build(config), config.loop, on_log=on_log)
