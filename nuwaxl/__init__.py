"""Long films from text: keyframes over the whole timeline, then every gap between them.

`import nuwaxl` loads no network library; each public name loads its module on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from nuwaxl.denoising.denoiser import SegmentDenoiser
    from nuwaxl.denoising.sampling import SamplingConfig
    from nuwaxl.films.inputs import FilmEdit
    from nuwaxl.models.autoencoder import TemporalAutoencoderKL
    from nuwaxl.models.mask_transformer3d import MaskTransformer3D
    from nuwaxl.models.mask_unet3d import MaskUNet3D
    from nuwaxl.models.prompt_adapter import PromptAdapter
    from nuwaxl.models.scenery import SceneryModel
    from nuwaxl.pipelines.backend import BackendPipeline
    from nuwaxl.pipelines.long_video import LongVideoPipeline
    from nuwaxl.stores.disk import DiskStore
    from nuwaxl.stores.store import MemoryStore, SegmentStore
    from nuwaxl.tree.coarse_to_fine import Orchestrator, SegmentJob, SegmentModel
    from nuwaxl.tree.storyline import Storyline
    from nuwaxl.tree.timeline import Segment, Timeline
    from nuwaxl.video import VideoWriter, contact_sheet, read_video, write_video

__version__ = "0.1.0"

_HOMES = {
    "BackendPipeline": "nuwaxl.pipelines.backend",
    "DiskStore": "nuwaxl.stores.disk",
    "FilmEdit": "nuwaxl.films.inputs",
    "LongVideoPipeline": "nuwaxl.pipelines.long_video",
    "MaskTransformer3D": "nuwaxl.models.mask_transformer3d",
    "MaskUNet3D": "nuwaxl.models.mask_unet3d",
    "MemoryStore": "nuwaxl.stores.store",
    # diffusers saves our models as ["nuwaxl", "MaskUNet3D"] and then looks for the base class here.
    "ModelMixin": "diffusers",
    "Orchestrator": "nuwaxl.tree.coarse_to_fine",
    "PromptAdapter": "nuwaxl.models.prompt_adapter",
    "SamplingConfig": "nuwaxl.denoising.sampling",
    "SceneryModel": "nuwaxl.models.scenery",
    "Segment": "nuwaxl.tree.timeline",
    "SegmentDenoiser": "nuwaxl.denoising.denoiser",
    "SegmentJob": "nuwaxl.tree.coarse_to_fine",
    "SegmentModel": "nuwaxl.tree.coarse_to_fine",
    "SegmentStore": "nuwaxl.stores.store",
    "Storyline": "nuwaxl.tree.storyline",
    "TemporalAutoencoderKL": "nuwaxl.models.autoencoder",
    "Timeline": "nuwaxl.tree.timeline",
    "VideoWriter": "nuwaxl.video",
    "contact_sheet": "nuwaxl.video",
    "read_video": "nuwaxl.video",
    "write_video": "nuwaxl.video",
}

__all__ = [
    "BackendPipeline",
    "DiskStore",
    "FilmEdit",
    "LongVideoPipeline",
    "MaskTransformer3D",
    "MaskUNet3D",
    "MemoryStore",
    "ModelMixin",
    "Orchestrator",
    "PromptAdapter",
    "SamplingConfig",
    "SceneryModel",
    "Segment",
    "SegmentDenoiser",
    "SegmentJob",
    "SegmentModel",
    "SegmentStore",
    "Storyline",
    "TemporalAutoencoderKL",
    "Timeline",
    "VideoWriter",
    "__version__",
    "contact_sheet",
    "read_video",
    "write_video",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nuwaxl' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
