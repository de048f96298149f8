"""Pixels to files and back: films, folders of PNGs, contact sheets, pictures.

Knows uint8 pictures (height, width, 3), not latents, prompts or segments. Importing this package
imports neither numpy nor PyAV, so that `check_output` can refuse a bad path before anything heavy
is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nuwaxl.video.output import OutputKind, as_frame_rate, check_output

if TYPE_CHECKING:
    from nuwaxl.video.pictures import contact_sheet, image_to_array, load_image
    from nuwaxl.video.reader import VideoInfo, probe, read_video
    from nuwaxl.video.writer import VideoWriter, write_video

__all__ = [
    "OutputKind",
    "VideoInfo",
    "VideoWriter",
    "as_frame_rate",
    "check_output",
    "contact_sheet",
    "image_to_array",
    "load_image",
    "probe",
    "read_video",
    "write_video",
]

_HOMES = {
    "VideoInfo": "reader",
    "VideoWriter": "writer",
    "contact_sheet": "pictures",
    "image_to_array": "pictures",
    "load_image": "pictures",
    "probe": "reader",
    "read_video": "reader",
    "write_video": "writer",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
