"""Networks: latents in, predictions out.

Knows no files, prompts or loops over noise levels.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuwaxl.models.autoencoder import TemporalAutoencoderKL
    from nuwaxl.models.frame_estimator import FrameEstimator
    from nuwaxl.models.latent_mover import LatentMover
    from nuwaxl.models.mask_transformer3d import MaskTransformer3D
    from nuwaxl.models.mask_unet3d import MaskUNet3D, MaskUNet3DOutput
    from nuwaxl.models.prompt_adapter import PromptAdapter
    from nuwaxl.models.scenery import SceneryModel

__all__ = [
    "FrameEstimator",
    "LatentMover",
    "MaskTransformer3D",
    "MaskUNet3D",
    "MaskUNet3DOutput",
    "PromptAdapter",
    "SceneryModel",
    "TemporalAutoencoderKL",
]

_MODULES = {
    "FrameEstimator": "frame_estimator",
    "LatentMover": "latent_mover",
    "MaskTransformer3D": "mask_transformer3d",
    "MaskUNet3D": "mask_unet3d",
    "MaskUNet3DOutput": "mask_unet3d",
    "PromptAdapter": "prompt_adapter",
    "SceneryModel": "scenery",
    "TemporalAutoencoderKL": "autoencoder",
}


def __getattr__(name: str) -> object:
    """Import a network on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
