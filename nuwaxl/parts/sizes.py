"""The parts of a pipeline by their sizes, and whether they fit each other.

Knows settings and the small files that hold them, not networks: standard library only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("global_unet", "local_unet")
PREDICTION_TYPES = ("epsilon", "v_prediction")
"""What an image model's U-Net may predict."""
_INDEX = "model_index.json"


@dataclass(frozen=True)
class ModelParts:
    """Each part as the `config.json` of its folder describes it.

    Raises:
        ValueError: a size is missing, or two do not fit.
    """

    height: int
    """Of a frame, in pixels."""
    width: int
    segment_length: int = 16
    """Most frames in one run (L)."""
    global_unet: dict[str, Any] = field(default_factory=dict)
    local_unet: dict[str, Any] = field(default_factory=dict)
    """Empty: as the global one."""
    vae: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] = field(default_factory=dict)
    prompt_adapter: dict[str, Any] = field(default_factory=dict)
    """Empty: the networks attend to the text encoder's hidden states themselves."""
    scenery: dict[str, Any] = field(default_factory=dict)
    """Empty: the networks are shown no sketches."""

    def __post_init__(self) -> None:
        if self.segment_length < 2:
            raise ValueError(f"`segment_length` must be 2 or more, got {self.segment_length}.")
        latents = _size(self.vae, "vae", "latent_channels")
        words = _size(self.text_encoder, "text_encoder", "hidden_size")
        source = "the text encoder's hidden_size"
        if self.prompt_adapter:
            read = _size(self.prompt_adapter, "prompt_adapter", "text_dim")
            if read != words:
                raise ValueError(
                    f"`prompt_adapter` must read texts of {words} numbers, {source}, got "
                    f"text_dim={read}."
                )
            words = _size(self.prompt_adapter, "prompt_adapter", "dim")
            source = "the prompt adapter's dim"
        for role in ROLES:
            network = self.network(role)
            for name in ("in_channels", "out_channels"):
                channels = _size(network, role, name)
                if channels != latents:
                    raise ValueError(
                        f"`{role}` must have {name}={latents}, the VAE's latent_channels, got "
                        f"{channels}: take the VAE that it was trained with."
                    )
            dim = _size(network, role, "cross_attention_dim")
            if dim != words:
                raise ValueError(
                    f"`{role}` must have cross_attention_dim={words}, {source}, got {dim}: take "
                    "the text encoder that it was trained with."
                )
        self._check_frame()

    def _check_frame(self) -> None:
        halvings = [len(_size(self.network(r), r, "block_out_channels", (0,))) - 1 for r in ROLES]
        patches = [_size(self.network(role), role, "patch_size", 1) for role in ROLES]
        cells = math.lcm(*(p * 2**n for p, n in zip(patches, halvings, strict=True)))
        multiple = cells * self.spatial_scale
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < 1 or size % multiple:
                raise ValueError(
                    f"`{name}` must be a multiple of {multiple} pixels for these networks, got "
                    f"{size}; the next one is {max(1, math.ceil(size / multiple)) * multiple}."
                )

    def network(self, role: str) -> dict[str, Any]:
        """The settings of a role's network.

        Args:
            role: one of `ROLES`.
        """
        return getattr(self, role) or self.global_unet

    @property
    def spatial_scale(self) -> int:
        """Pixels per side of one latent cell."""
        halvings = len(_size(self.vae, "vae", "block_out_channels")) - 1
        return _size(self.vae, "vae", "patch_size", 1) * 2**halvings

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame's latents."""
        scale = self.spatial_scale
        return self.vae["latent_channels"], self.height // scale, self.width // scale


def read_parts(folder: str | Path) -> ModelParts:
    """The parts of a saved pipeline; no weights are read.

    Args:
        folder: that `LongVideoPipeline.save_pretrained` wrote.

    Raises:
        ValueError: a part's settings are missing, or do not fit the others'.
    """
    folder = Path(folder)
    index = _read(folder / _INDEX)
    optional = ("prompt_adapter", "scenery")
    there = [name for name in optional if (index.get(name) or [None])[0] is not None]
    names = (*ROLES, "vae", "text_encoder", *there)
    return ModelParts(
        height=index.get("height", 128),
        width=index.get("width", 128),
        segment_length=index.get("segment_length", 16),
        **{name: _read(folder / name / "config.json") for name in names},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"A pipeline's folder must hold {str(path)!r}, which cannot be read: name a folder that"
            " `nuwaxl init`, `nuwaxl assemble` or `save_pretrained` wrote."
        ) from None


def _size(settings: Mapping[str, Any], part: str, name: str, default: Any = None) -> Any:
    if name not in settings and default is None:
        raise ValueError(f"`{part}` must say its `{name}`, as its config.json does.")
    return settings.get(name, default)
