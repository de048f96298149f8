"""What is asked of a preparation, checked before anything heavy is loaded.

Knows numbers and names, not videos.
"""

import math
from dataclasses import dataclass

from nuwaxl.tree.storyline import parse_time

DETECTORS = ("adaptive", "content", "none")
FORMATS = ("jpg", "webp", "png")


@dataclass(frozen=True)
class PrepareConfig:
    """All that decides what a prepared dataset holds."""

    size: int = 128
    """Height and width of the pictures in pixels; the middle of each frame is kept."""
    fps: float = 8.0
    """Pictures per second; a video of fewer gives those it has."""
    detector: str = "adaptive"
    """PySceneDetect's, one of `DETECTORS`; 'adaptive' bears a moving camera better.
    'none': a video is one shot."""
    shot_threshold: float | None = None
    """How large a change is a cut; None: PySceneDetect's own (adaptive 3, content 27)."""
    min_shot: float = 0.6
    """Seconds that a shot lasts at least."""
    min_motion: float = 6.0
    """A shot is near-static, and left out, when no cell of 16x16 changes by more than this (of
    255) from its first picture on. 0 keeps every shot."""
    dedupe: bool = True
    """Leave out shots that another video shows too."""
    captioner: str = ""
    """A transformers captioner, such as GIT or BLIP: a folder or a name on the hub; '': none."""
    caption_every: str = "shot"
    """'shot', 'frame', or a time such as '2s' at which a shot is captioned again."""
    sidecars: bool = True
    """Take captions from NAME.json, NAME.srt or NAME.txt beside a video; they come first."""
    format: str = "jpg"
    """Of the pictures, one of `FORMATS`. jpg keeps full colour resolution, webp halves it
    and the size."""
    quality: int = 95
    """Of jpg and webp, 1 to 100."""

    def __post_init__(self) -> None:
        """Refuse what cannot be prepared."""
        if not 8 <= self.size <= 4096:
            raise ValueError(f"`size` must be from 8 to 4096 pixels, got {self.size}.")
        if not (math.isfinite(self.fps) and 0 < self.fps <= 240):
            raise ValueError(f"`fps` must be above 0 and at most 240, got {self.fps:g}.")
        if self.detector not in DETECTORS:
            raise ValueError(f"`detector` must be {_any(DETECTORS)}, got {self.detector!r}.")
        if self.format not in FORMATS:
            raise ValueError(f"`format` must be {_any(FORMATS)}, got {self.format!r}.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"`quality` must be from 1 to 100, got {self.quality}.")
        for name in ("shot_threshold", "min_shot", "min_motion"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be 0 or more, got {value:g}.")
        _ = self.caption_seconds

    @property
    def caption_seconds(self) -> float:
        """Seconds between the captions of a shot; infinite: one for each shot; 0: every frame."""
        if self.caption_every in ("shot", "frame"):
            return math.inf if self.caption_every == "shot" else 0.0
        try:
            seconds = parse_time(self.caption_every)
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            raise ValueError(
                "`caption_every` must be 'shot', 'frame' or a time such as '2s', got "
                f"{self.caption_every!r}."
            )
        return seconds


def _any(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
