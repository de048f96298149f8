"""Read a film frame by frame, and say what it is without decoding it.

Knows whatever FFmpeg reads, and folders of PNGs; pictures come as uint8 (height, width, 3), RGB.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from nuwaxl.video.colour import ColourConverter
from nuwaxl.video.encoders import FPS_NOTE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What a film is."""

    num_frames: int
    """Counted, not taken from the header: a cut file tells how much of it is left."""
    fps: Fraction | None
    """Frames per second; None for a folder of pictures that note none."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    codec: str
    """FFmpeg's name, for example h264, vp9, gif, png."""

    @property
    def duration(self) -> float | None:
        """Seconds; None where the frame rate is unknown."""
        return None if self.fps is None else float(self.num_frames / self.fps)


def read_video(path: str | os.PathLike[str]) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The pictures of a film, one at a time, in memory that does not grow with its length.

    A film that was cut off gives its beginning and a warning in the log.

    Args:
        path: a film of any kind that FFmpeg reads, or a folder of PNGs.

    Returns:
        An iterator of uint8 pictures of shape (height, width, 3), RGB.

    Raises:
        FileNotFoundError: nothing is there. Raised at the call, the others at the first frame.
        ValueError: it is no film.
    """
    source = _existing(path)
    if source.is_dir():
        return _read_folder(source)
    return _read_file(source)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate and length of a film; reads the file through, but decodes nothing.

    The times in a GIF are hundredths of a second: its rate is the simplest fraction that gives
    its length.

    Args:
        path: a film of any kind that FFmpeg reads, or a folder of PNGs.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no film.
    """
    source = _existing(path)
    if source.is_dir():
        return _probe_folder(source)
    with _open(source) as container:
        stream = _video_stream(container, source)
        codec = stream.codec_context
        height, width, codec_name = codec.height, codec.width, codec.name
        fps = stream.average_rate or stream.guessed_rate
        num_frames = ticks = 0
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt and not packet.is_discard:
                    num_frames += 1
                    ticks += packet.duration or 0
        except av.FFmpegError as error:
            logger.warning("'%s' ends early: %s", source, error.strerror)
        if codec_name == "gif" and num_frames and ticks and stream.time_base is not None:
            fps = _simplest_rate(num_frames, ticks, stream.time_base)
    if not num_frames:
        raise ValueError(f"'{source}' holds no whole frame.")
    return VideoInfo(num_frames, fps, width, height, codec_name)


def _existing(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"There is no film '{source}'.")
    return source


def _open(source: Path) -> InputContainer:
    try:
        # Absolute: FFmpeg would take the part before a colon for a protocol.
        return av.open(str(source.absolute()))
    except av.FFmpegError as error:
        raise ValueError(f"'{source}' cannot be read as a film: {error.strerror}.") from error


def _video_stream(container: InputContainer, source: Path) -> VideoStream:
    if not container.streams.video:
        raise ValueError(f"'{source}' holds no pictures.")
    stream = container.streams.video[0]
    # Starting threads costs more than decoding a small picture, and loaders bring their own.
    stream.codec_context.thread_count = 1
    return stream


def _read_file(source: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    colour = ColourConverter()
    num_frames = 0
    with _open(source) as container:
        for frame in _decode(container, _video_stream(container, source), source):
            yield colour.to_rgb(frame)
            num_frames += 1
    if not num_frames:
        raise ValueError(f"'{source}' holds no whole frame.")


def _decode(
    container: InputContainer, stream: VideoStream, source: Path
) -> Iterator[av.VideoFrame]:
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                logger.warning("'%s' ends early: its last frame is cut.", source)
                break
            if packet.size:
                yield from stream.codec_context.decode(packet)
    except av.FFmpegError as error:
        logger.warning("'%s' ends early: %s", source, error.strerror)
    yield from stream.codec_context.decode(None)


def _simplest_rate(num_frames: int, ticks: int, time_base: Fraction) -> Fraction:
    shortest, longest = ((ticks + off) * time_base for off in (-1, 1))
    middle = num_frames / (ticks * time_base)
    denominator = 1
    while True:
        rate = middle.limit_denominator(denominator)
        if rate and shortest <= num_frames / rate <= longest:
            return rate
        denominator += 1


def _pictures(folder: Path) -> list[Path]:
    # By length first: frame_1000000 comes after frame_999999, and frame10 after frame9.
    pictures = sorted(folder.glob("*.png"), key=lambda picture: (len(picture.name), picture.name))
    if not pictures:
        raise ValueError(f"The folder '{folder}' holds no .png pictures.")
    return pictures


def _read_folder(folder: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    for picture in _pictures(folder):
        yield iio.imread(picture, plugin="pillow", index=0, mode="RGB")


def _probe_folder(folder: Path) -> VideoInfo:
    pictures = _pictures(folder)
    with iio.imopen(pictures[0], "r", plugin="pillow") as first:
        note = first.metadata(index=0).get(FPS_NOTE)
        height, width = first.properties(index=0).shape[:2]
    fps = None if note is None else Fraction(note)
    return VideoInfo(len(pictures), fps, width, height, "png")
