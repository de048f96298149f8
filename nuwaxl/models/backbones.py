"""The two architectures of a role's network, and what is done with either of them.

Knows classes and their settings, not what the networks compute.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.configuration_utils import ConfigMixin

from nuwaxl.models.mask_transformer3d import MaskTransformer3D
from nuwaxl.models.mask_unet3d import MaskUNet3D

Backbone = MaskUNet3D | MaskTransformer3D
"""A network of the global or the local role."""

BACKBONES: Mapping[str, type[Backbone]] = {
    network.__name__: network for network in (MaskUNet3D, MaskTransformer3D)
}


def load_backbone(folder: str | Path) -> Backbone:
    """A saved network, of the class that its config.json names.

    Args:
        folder: that `save_pretrained` wrote.

    Raises:
        ValueError: it holds neither kind of network.
    """
    return backbone_class(folder).from_pretrained(folder)


def backbone_class(folder: str | Path) -> type[Backbone]:
    """Of which class a saved network is; reads no weights.

    Args:
        folder: that `save_pretrained` wrote.

    Raises:
        ValueError: it holds neither kind of network.
    """
    settings: Any = MaskUNet3D.load_config(folder)
    name = settings.get("_class_name")
    if name not in BACKBONES:
        raise ValueError(
            f"{str(folder)!r} must hold a {' or a '.join(BACKBONES)}, and its config.json names "
            f"{name!r}; name a folder that `nuwaxl train` wrote."
        )
    return BACKBONES[name]


def model_settings(model: ConfigMixin) -> dict[str, Any]:
    """The arguments that build a model of the same class and sizes."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def with_time(image: Backbone) -> Backbone:
    """The image network with temporal layers and injection, which change nothing at first.

    Args:
        image: a network with `temporal=False`.
    """
    if isinstance(image, MaskTransformer3D):
        return MaskTransformer3D.from_image(image)
    return MaskUNet3D.from_unet2d(image)
