"""Read a film with the moment of every frame, as a viewer sees it: upright, in square pixels.

Knows files and decoded frames, not what is done with them.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nuwaxl.video.colour import ColourConverter
from nuwaxl.video.reader import _existing, _open, _video_stream

_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67 of FFmpeg."""
_CUT_SHORT = 1.0
"""Seconds that may be missing at the end before a film counts as cut: headers are rounded."""


class TimedReader:
    """Frames of a film with their times; use it as a context manager and iterate once.

    Times are what the film says, so a variable frame rate stays one. A damaged piece in the middle
    is passed over: what comes after keeps its time.

    Args:
        path: a film of any kind that FFmpeg reads.

    Attributes:
        codec: FFmpeg's name.
        fps: frames per second on average; None where the film does not say.
        height: as coded, before a rotation.
        width: as coded.
        notes: what a user should know of how the film was read; grows while it is read.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no film.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = _existing(path)
        self.notes: list[str] = []
        self._container = _open(self.path)
        try:
            self._stream = _video_stream(self._container, self.path)
        except ValueError:
            self._container.close()
            raise
        context = self._stream.codec_context
        self.codec, self.height, self.width = context.name, context.height, context.width
        self.fps = self._stream.average_rate or self._stream.guessed_rate
        self._pixel_aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self._colour = ColourConverter()
        if context.color_trc in _HDR_TRANSFERS:
            transfer = _HDR_TRANSFERS[context.color_trc]
            self.notes.append(f"HDR ({transfer}): read without tone mapping, so colours are pale")

    def __enter__(self) -> "TimedReader":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Pairs of the seconds since the first frame, strictly rising, and the decoded frame.

        Raises:
            ValueError: there is no whole frame.
        """
        step = 1 / self.fps if self.fps else Fraction(1, 25)
        start = last = None
        for frame in self._decoded():
            # Some decoders leave the base out of their frames; it is the stream's.
            base = frame.time_base or self._stream.time_base
            moment = None if frame.pts is None or base is None else frame.pts * Fraction(base)
            if start is None:
                start, last = moment or Fraction(0), Fraction(0)
            else:
                assert last is not None
                shown = last + step if moment is None else moment - start
                if shown <= last:  # Parts joined without new times begin at 0 again.
                    shown = last + step
                    start = start if moment is None else moment - shown
                last = shown
            yield last, frame
        if last is None:
            raise ValueError(f"'{self.path}' holds no whole frame.")
        self._note_the_end(last + step)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        damaged = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.notes.append(f"cannot be read to its end ({error.strerror})")
                break
            if packet is None:
                break
            if packet.is_corrupt:
                damaged += 1
            elif packet.size:
                try:
                    yield from self._stream.codec_context.decode(packet)
                except av.FFmpegError:
                    damaged += 1
        try:
            yield from self._stream.codec_context.decode(None)
        except av.FFmpegError:
            damaged += 1
        if damaged:
            self.notes.append(f"damaged packets left out: {damaged}")

    def _note_the_end(self, end: Fraction) -> None:
        """Compare the length with what the header promised."""
        if self._stream.duration and self._stream.time_base:
            promised = self._stream.duration * self._stream.time_base
        elif self._container.duration:
            promised = Fraction(self._container.duration, av.time_base)
        else:
            return
        if promised - end > _CUT_SHORT:
            self.notes.append(f"ends after {float(end):.1f} s of {float(promised):.1f} s")

    def square(self, frame: av.VideoFrame, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The middle of a frame as a viewer sees it: square pixels, upright, RGB.

        Args:
            frame: one that this reader gave.
            size: height and width in pixels.
        """
        picture = Image.fromarray(self._colour.to_rgb(frame))
        aspect = float(self._pixel_aspect)
        side = min(picture.width * aspect, picture.height)
        left, top = (picture.width - side / aspect) / 2, (picture.height - side) / 2
        box = (left, top, picture.width - left, picture.height - top)
        small = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))
        return np.ascontiguousarray(np.rot90(small, round(frame.rotation / 90)))
