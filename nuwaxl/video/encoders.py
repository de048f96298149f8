"""One encoder per kind of film: takes pictures one at a time, writes one file or folder.

Knows codecs and containers, not final names or clean-up. The same pictures give the same bytes:
one thread, no clock and no random identifiers in the containers.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
from av.filter import Graph
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo

from nuwaxl.video.colour import BT709, LIMITED_RANGE, ColourConverter, resize_planes
from nuwaxl.video.output import OutputKind

# Largest value of the constant rate factor, and the one used where none is asked for: hardly
# visible loss on the cartoon world (about 35 dB; all but 1 dB of it is the halved chroma).
CRF_RANGES = {OutputKind.MP4: (51, 18), OutputKind.MKV: (51, 18), OutputKind.WEBM: (63, 24)}
FORMATS = {OutputKind.MP4: "mp4", OutputKind.MKV: "matroska", OutputKind.WEBM: "webm"}
FPS_NOTE = "fps"
_SECONDS_PER_KEY_FRAME = 2


class _OutputFile:
    """A file that keeps the error of a full disk until `check`.

    FFmpeg's own writing of .mp4 does not tell of it: the film would be cut and pass for whole, or,
    where not even its header was written, the next frame would end the process.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Append, for FFmpeg always with success."""
        if self._error is None:
            try:
                return self._file.write(content)
            except OSError as error:
                self._error = error
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go elsewhere in the file."""
        if self._error is None:
            try:
                return self._file.seek(offset, whence)
            except OSError as error:
                self._error = error
        return offset

    def tell(self) -> int:
        """Where the next bytes go."""
        return self._file.tell()

    def check(self) -> None:
        """Raise the error that there was."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is pending; raises when that or anything before it failed."""
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        self.check()


class YuvEncoder:
    """H.264 in a fragmented .mp4 or in .mkv, or VP9 in .webm; all yuv420p.

    A fragmented file is playable up to where it was cut, needs no index in memory, and is whole
    without a second pass.

    H.264 halves the chroma, so its pictures have even sizes, and its own cropping counts in twos.
    An odd film is therefore encoded one row or column larger while the container states the true
    size, which decoders crop to. VP9 codes odd sizes itself.
    """

    def __init__(
        self, kind: OutputKind, path: Path, fps: Fraction, *, height: int, width: int, crf: int
    ) -> None:
        """Open the file and the codec; the arguments are those of `make_encoder`."""
        codec_name = "libvpx-vp9" if kind is OutputKind.WEBM else "libx264"
        options = {"crf": str(crf), "g": str(max(1, round(_SECONDS_PER_KEY_FRAME * fps)))}
        container_options = {"fflags": "+bitexact"}
        if kind is OutputKind.MP4:
            container_options["movflags"] = "frag_keyframe+empty_moov+default_base_moof"
        if codec_name == "libx264":
            # Frames in display order: the film starts at time 0 without an edit list, for 8 % more.
            # 218 pictures of 128 x 128, films and a render: 38.7 dB, 350 kB, 0.63 ms a picture;
            # 'faster' 38.6 dB, 225 kB, 1.14 ms; 'veryfast' 38.1 dB, 228 kB, 0.88 ms.
            options |= {"bf": "0", "preset": "superfast"}
            self._height, self._width = height + height % 2, width + width % 2
        else:
            options |= {"b": "0", "deadline": "good", "cpu-used": "2"}
            self._height, self._width = height, width
        codec = av.VideoCodecContext.create(codec_name, "w")
        codec.height, codec.width, codec.pix_fmt = self._height, self._width, "yuv420p"
        codec.time_base, codec.framerate = 1 / fps, fps
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = LIMITED_RANGE
        codec.thread_count = 1
        codec.options = options
        codec.open()
        self._codec, self._time_base, self._num_frames = codec, 1 / fps, 0
        self._colour = ColourConverter()
        self._file = _OutputFile(path)
        self._container = av.open(self._file, "w", format=FORMATS[kind], options=container_options)
        self._stream = self._container.add_mux_stream(
            codec_name, rate=fps, width=width, height=height, time_base=1 / fps
        )

    def add(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Encode the next picture."""
        frame = self._colour.to_yuv(picture)
        if (frame.height, frame.width) != (self._height, self._width):
            frame = resize_planes(frame, self._height, self._width)
        frame.pts, frame.time_base = self._num_frames, self._time_base
        self._num_frames += 1
        self._mux(frame)

    def close(self) -> None:
        """Write what is pending."""
        try:
            self._mux(None)
        finally:
            self._container.close()
            self._file.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._codec.encode(frame):
            packet.stream = self._stream
            self._container.mux(packet)
        self._file.check()


class GifEncoder:
    """A GIF whose every frame has its own palette of 256 colours, no dithering, endless loop.

    Measured on the cartoon world: 37.4 dB so, 36.9 with ordered dithering, 35.9 with Pillow's
    octree, 35.6 with its median cut; error diffusion is worse and shimmers. A palette for the
    whole film would need the film in memory, or twice.
    """

    def __init__(self, path: Path, fps: Fraction, *, height: int, width: int) -> None:
        """Open the file; the arguments are those of `make_encoder`."""
        self._time_base, self._num_frames = 1 / fps, 0
        self._file = _OutputFile(path)
        self._container = av.open(self._file, "w", format="gif", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream("gif", rate=fps)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "pal8"
        self._stream.codec_context.time_base = self._time_base
        self._stream.codec_context.thread_count = 1
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat("rgb24"),
            time_base=self._time_base,
        )
        split = graph.add("split")
        palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        indexed = graph.add("paletteuse", "new=1:dither=none")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(indexed, 1, 0)
        palette.link_to(indexed, 0, 1)
        indexed.link_to(sink)
        graph.configure()
        self._graph = graph

    def add(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Encode the next picture."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._num_frames, self._time_base
        self._num_frames += 1
        self._graph.push(frame)
        self._drain()

    def close(self) -> None:
        """Write what is pending."""
        try:
            self._graph.push(None)
            self._drain()
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
            self._file.close()

    def _drain(self) -> None:
        for frame in self._indexed_frames():
            self._container.mux(self._stream.encode(frame))
        self._file.check()

    def _indexed_frames(self) -> Iterator[av.VideoFrame]:
        while True:
            try:
                yield self._graph.vpull()
            except (BlockingIOError, EOFError):  # the graph wants more frames, or had its last
                return


class FolderEncoder:
    """A folder of `frame_000000.png`, lossless; each picture notes the frame rate."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        """Make the folder `path`."""
        path.mkdir()
        self._path, self._num_frames = path, 0
        self._note = PngInfo()
        self._note.add_text(FPS_NOTE, str(fps))

    def add(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Write the next picture."""
        name = f"frame_{self._num_frames:06d}.png"
        iio.imwrite(self._path / name, picture, plugin="pillow", is_batch=False, pnginfo=self._note)
        self._num_frames += 1

    def close(self) -> None:
        """Nothing is pending: every picture is a file."""


FrameEncoder = YuvEncoder | GifEncoder | FolderEncoder


def make_encoder(
    kind: OutputKind, path: Path, fps: Fraction, *, height: int, width: int, crf: int | None
) -> FrameEncoder:
    """The encoder of a kind of film, open on `path`, which must not exist.

    Args:
        kind: what to write.
        path: file, or folder to be made.
        fps: frames per second.
        height: of every picture, in pixels.
        width: of every picture, in pixels.
        crf: constant rate factor (smaller is better and larger), only for .mp4, .mkv and .webm.
    """
    if kind is OutputKind.FOLDER:
        return FolderEncoder(path, fps)
    if kind is OutputKind.GIF:
        return GifEncoder(path, fps, height=height, width=width)
    quality = CRF_RANGES[kind][1] if crf is None else crf
    return YuvEncoder(kind, path, fps, height=height, width=width, crf=quality)
