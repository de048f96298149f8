"""The storyline as text: a subtitle file, and captions drawn into the picture.

Knows times and words, not containers.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nuwaxl.tree.storyline import Storyline
from nuwaxl.video.pictures import wrap_text

_ROUNDING = 1e-6  # of frame numbers over fps, far below a frame


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown."""

    start: float
    """Seconds."""
    stop: float
    """Seconds, not included."""
    text: str


def cues_of(storyline: Storyline, duration: float) -> tuple[Cue, ...]:
    """Every scene's prompt, as long as the scene lasts.

    Args:
        storyline: of the film.
        duration: of the film, in seconds; later scenes are left out.
    """
    scenes = [scene for scene in storyline.scenes if scene.start < duration - _ROUNDING]
    stops = [scene.start for scene in scenes[1:]] + [duration]
    return tuple(
        Cue(scene.start, stop, " ".join(scene.prompt.split()))
        for scene, stop in zip(scenes, stops, strict=True)
    )


def write_srt(path: str | os.PathLike[str], cues: Iterable[Cue]) -> None:
    """Write a SubRip file, whole or not at all.

    Args:
        path: of the file.
        cues: in order of time.
    """
    target = Path(path)
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    blocks = (
        f"{number}\n{_srt_time(cue.start)} --> {_srt_time(cue.stop)}\n{cue.text}\n"
        for number, cue in enumerate(cues, 1)
    )
    try:
        hidden.write_text("\n".join(blocks), encoding="utf-8")
        hidden.replace(target)
    finally:
        hidden.unlink(missing_ok=True)


class BurnCaptions:
    """Draws the text of the moment into the lower part of every picture: white, outlined.

    Args:
        cues: in order of time, none over another.
        fps: frames per second.
        font: a TrueType or OpenType file; None: Pillow's own, which has the letters of English and
            shows a box for most others.
        size: of the letters, in pixels; None: a fourteenth of the height, at least 8.

    Raises:
        ValueError: the font cannot be read, or the size is not positive.
    """

    context = 0

    def __init__(
        self,
        cues: Sequence[Cue],
        fps: float,
        *,
        font: str | os.PathLike[str] | None = None,
        size: int | None = None,
    ):
        if size is not None and size < 1:
            raise ValueError(f"`size` must be at least 1 pixel, got {size}.")
        self.cues, self.fps, self.size = tuple(cues), fps, size
        self._starts = [cue.start for cue in self.cues]
        self._font = None if font is None else os.fspath(font)
        self._load_font(size or 8)

    def apply(self, frames: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
        """See `FrameStep`."""
        drawn: tuple[str, Image.Image] | None = None
        for number, frame in enumerate(frames, first):
            text = self._text_at(number / self.fps + _ROUNDING)
            if not text:
                yield frame
                continue
            if drawn is None or drawn[0] != text:
                drawn = text, self._layer(text, frame.shape[1], frame.shape[0])
            picture = Image.fromarray(frame)
            picture.paste(drawn[1], mask=drawn[1])
            yield np.asarray(picture)

    def _text_at(self, time: float) -> str:
        place = bisect_right(self._starts, time) - 1
        return self.cues[place].text if place >= 0 and time < self.cues[place].stop else ""

    def _layer(self, text: str, width: int, height: int) -> Image.Image:
        """The text on a clear picture of the film's size."""
        size = self.size or max(8, round(height / 14))
        font = self._load_font(size)
        stroke = max(1, round(size / 12))
        margin = max(2, round(height / 30))
        lines = wrap_text(text, max(1, width - 2 * margin - 2 * stroke), font)
        line_height = round(1.25 * size)
        layer = Image.new("RGBA", (width, height))
        draw = ImageDraw.Draw(layer)
        top = height - margin - line_height * len(lines)
        for place, line in enumerate(lines):
            draw.text(
                ((width - font.getlength(line)) / 2, top + place * line_height),
                line,
                font=font,
                fill=(255, 255, 255, 255),
                stroke_width=stroke,
                stroke_fill=(0, 0, 0, 255),
            )
        return layer

    def _load_font(self, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
        if self._font is None:
            return ImageFont.load_default(size)
        try:
            return ImageFont.truetype(self._font, size)
        except OSError as error:
            raise ValueError(
                f"`font` must be a TrueType or OpenType file, got {self._font!r}: {error}."
            ) from error


def _srt_time(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
