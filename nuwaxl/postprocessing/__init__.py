"""What may follow once a film's frames are made: steps on the stream of pictures, and on the file.

Knows uint8 pictures (height, width, 3), films and captions; not latents, keys or stores: nothing
here changes what was made. Every step takes pictures one at a time, in memory that does not grow
with the film, and a frame's result is a function of the film alone: of at most `context` frames on
either side. So a clip shows the very frames that the whole film shows (`finish_range`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuwaxl.postprocessing.captions import BurnCaptions, Cue, cues_of, write_srt
    from nuwaxl.postprocessing.deflicker import Deflicker, flicker
    from nuwaxl.postprocessing.muxing import check_sound, mux
    from nuwaxl.postprocessing.steps import FrameStep, finish, finish_range
    from nuwaxl.postprocessing.upscale import LanczosUpscale, ModelUpscale

_HOMES = {
    "BurnCaptions": "captions",
    "Cue": "captions",
    "Deflicker": "deflicker",
    "FrameStep": "steps",
    "LanczosUpscale": "upscale",
    "ModelUpscale": "upscale",
    "check_sound": "muxing",
    "cues_of": "captions",
    "finish": "steps",
    "finish_range": "steps",
    "flicker": "deflicker",
    "mux": "muxing",
    "write_srt": "captions",
}

__all__ = [
    "BurnCaptions",
    "Cue",
    "Deflicker",
    "FrameStep",
    "LanczosUpscale",
    "ModelUpscale",
    "check_sound",
    "cues_of",
    "finish",
    "finish_range",
    "flicker",
    "mux",
    "write_srt",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
