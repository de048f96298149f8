"""Checks of prepared datasets before a stage learns from them.

Knows settings and folders; a dataset that does not fit them is a `ConfigError` of one line.
"""

import json
from pathlib import Path

from nuwaxl.config import ConfigError
from nuwaxl.data.frames import FramesConfig, PreparedFrames, ToonFrames, frames_of
from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.data.strips import StripsConfig, strip_source
from nuwaxl.models.autoencoder import TemporalAutoencoderKL


def checked_frames(config: FramesConfig, *, seed: int) -> ToonFrames | PreparedFrames:
    """The frames that a config names.

    Args:
        config: the toon world or a dataset.
        seed: of all chance.

    Raises:
        ConfigError: the dataset is none, or has no clips of this length.
    """
    try:
        return frames_of(config, seed=seed)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def is_encoded(config: StripsConfig) -> bool:
    """Whether strips are there already; those that are not can be encoded.

    Args:
        config: of the strips.

    Raises:
        ConfigError: the folder holds strips of another dataset, or the dataset cannot give these.
    """
    settings = Path(config.folder) / "config.json"
    if settings.is_file():
        before = json.loads(settings.read_text(encoding="utf-8")).get("dataset", "")
        if before != config.dataset:
            raise ConfigError(
                f"the strips in '{config.folder}' were encoded from {_spell(before)}, not from "
                f"{_spell(config.dataset)}: name another `folder`, or delete this one."
            )
        return True
    if config.dataset:
        try:
            strip_source(config)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return False


def check_picture_size(dataset: str, vae: TemporalAutoencoderKL) -> None:
    """Refuse pictures that an autoencoder cannot halve.

    Args:
        dataset: folder of a prepared dataset; empty: the toon world, which fits.
        vae: the autoencoder.

    Raises:
        ConfigError: one line with the way out.
    """
    if not dataset:
        return
    size = PreparedDataset(dataset).size
    factor = vae.config["patch_size"] * 2 ** (len(vae.config["block_out_channels"]) - 1)
    if size % factor:
        raise ConfigError(
            f"the pictures of '{dataset}' must have a size that is a multiple of {factor} for this "
            f"autoencoder, got {size}: prepare them with another --size."
        )


def _spell(dataset: str) -> str:
    return f"'{dataset}'" if dataset else "the toon world"
