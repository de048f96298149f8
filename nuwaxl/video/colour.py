"""Between RGB pictures and the YUV frames that video codecs take.

Knows colour and sizes, not files. Everything is BT.709, limited range, 8 bits, chroma halved in
both directions (yuv420p), which is what every player shows. The chroma planes of an odd picture
cover one more column or row than its luma; swscale would squeeze them onto the odd width and so
shift the colours (33 dB instead of 39 on the cartoon world), hence the even frames here.
"""

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

# AVCOL_SPC/PRI/TRC_BT709 and AVCOL_RANGE_MPEG of FFmpeg, as codec contexts take them.
BT709 = 1
LIMITED_RANGE = 1

# Averages the four pixels of a chroma sample: flat colours come back within 2 of 255.
_TO_YUV = Interpolation.AREA | Interpolation.ACCURATE_RND
# Without full chroma and accurate rounding colours come back 1 too dark, and films 2 dB worse.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class ColourConverter:
    """Converts the pictures of one film; keeps the scaler's tables between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_yuv(self, picture: UInt8[np.ndarray, "height width 3"]) -> av.VideoFrame:
        """An RGB picture as yuv420p; odd sizes grow by a copy of their last row or column."""
        height, width, _ = picture.shape
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_TO_YUV,
            threads=1,
        )

    def to_rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        """A decoded frame as an RGB picture of exactly the frame's size."""
        height, width = frame.height, frame.width
        if frame.format.name == "yuv420p" and (height % 2 or width % 2):
            frame = resize_planes(frame, height + height % 2, width + width % 2)
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=_TO_RGB, threads=1)
        picture = rgb.to_ndarray()
        return np.ascontiguousarray(picture[:height, :width])


def resize_planes(frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    """The same yuv420p samples in a frame one row or column larger or smaller; new ones repeat."""
    resized = av.VideoFrame(width, height, "yuv420p")
    resized.colorspace, resized.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, resized.planes, strict=True):
        samples = _samples(source)
        pad_rows = max(0, target.height - source.height)
        pad_columns = max(0, target.width - source.width)
        samples = np.pad(samples, ((0, pad_rows), (0, pad_columns)), mode="edge")
        _samples(target)[...] = samples[: target.height, : target.width]
    return resized


def _samples(plane: VideoPlane) -> UInt8[np.ndarray, "rows columns"]:
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]
