"""A film whose frames are made when they are asked for.

Knows latents, windows and pixels; not prompts, networks or files.
"""

from collections.abc import Generator, Iterator
from itertools import islice
from types import TracebackType
from weakref import WeakSet

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from nuwaxl.pictures.codecs import FrameCodec
from nuwaxl.tree.coarse_to_fine import OnSegment, Orchestrator
from nuwaxl.tree.timeline import Timeline, Window


class Film:
    """Any part of one film, at any level of detail, each segment made once.

    Close it, or use it as a context manager, when its executor has workers.

    Args:
        orchestrator: makes the latents.
        codec: turns them into pixels.
        windows_per_batch: windows decoded at once.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        codec: FrameCodec,
        *,
        windows_per_batch: int,
    ):
        self.orchestrator = orchestrator
        self.codec = codec
        self.windows_per_batch = windows_per_batch
        self._asked_for: WeakSet[Generator[tuple[Window, Tensor], None, None]] = WeakSet()

    @property
    def timeline(self) -> Timeline:
        """The film's frames and the segments that make them."""
        return self.orchestrator.plan.timeline

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.orchestrator.plan.fps

    def latents(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        max_level: int | None = None,
        on_segment: OnSegment | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "channels height width"]]]:
        """Frame numbers and latents in display order.

        Args:
            start: first frame.
            stop: frame to stop before; None: the end of the film.
            max_level: frames down to this level only (0: keyframes), a preview of the whole film.
            on_segment: called with job and latents as soon as a segment has run.
        """
        stop = self.checked_stop(start, stop)
        windows = self._windows(start, stop, max_level, on_segment)
        for window, latents in windows:
            for frame, frame_latents in zip(window.shown, latents[window.skip :], strict=False):
                if start <= frame < stop:
                    yield frame, frame_latents

    def pixels(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        max_level: int | None = None,
        on_segment: OnSegment | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "3 height width"]]]:
        """Frame numbers and pixels in [0, 1] in display order, on the CPU.

        A window is decoded whole and by itself, so a frame's pixels do not depend on the range.

        Args:
            start: first frame.
            stop: frame to stop before; None: the end of the film.
            max_level: frames down to this level only.
            on_segment: called with job and latents as soon as a segment has run.
        """
        stop = self.checked_stop(start, stop)
        windows = self._windows(start, stop, max_level, on_segment)
        while batch := list(islice(windows, self.windows_per_batch)):
            decoded = self.codec.decode([latents for _, latents in batch])
            for (window, _), window_pixels in zip(batch, decoded, strict=True):
                for frame, frame_pixels in zip(
                    window.shown, window_pixels[window.skip :], strict=False
                ):
                    if start <= frame < stop:
                        yield frame, frame_pixels

    def frames(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        max_level: int | None = None,
        on_segment: OnSegment | None = None,
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Pictures in display order, as 8-bit RGB.

        Args:
            start: first frame.
            stop: frame to stop before; None: the end of the film.
            max_level: frames down to this level only.
            on_segment: called with job and latents as soon as a segment has run.
        """
        for _, pixels in self.pixels(start, stop, max_level=max_level, on_segment=on_segment):
            yield to_picture(pixels)

    def close(self) -> None:
        """Keep what the executor's workers have in hand, and stop them.

        Iterators over this film's frames end with it.
        """
        for windows in list(self._asked_for):
            # After an error its traceback may still hold it, and with it batches that run.
            windows.close()
        self.orchestrator.executor.close()

    def _windows(
        self, start: int, stop: int, max_level: int | None, on_segment: OnSegment | None
    ) -> Generator[tuple[Window, Tensor], None, None]:
        windows = self.orchestrator.windows(start, stop, max_level=max_level, on_segment=on_segment)
        self._asked_for.add(windows)
        return windows

    def __enter__(self) -> "Film":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def checked_stop(self, start: int, stop: int | None) -> int:
        """The frame to stop before.

        Args:
            start: first frame.
            stop: frame to stop before; None: the end of the film.

        Raises:
            ValueError: the range is empty or leaves the film.
        """
        num_frames = self.timeline.num_frames
        stop = num_frames if stop is None else stop
        if not 0 <= start < stop <= num_frames:
            raise ValueError(
                f"`start` and `stop` must be frames with 0 <= start < stop <= {num_frames},"
                f" got {start} and {stop}."
            )
        return stop


def to_picture(pixels: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit RGB of pixels in [0, 1].

    Args:
        pixels: one frame.
    """
    return rearrange((pixels * 255).round().to(torch.uint8), "c h w -> h w c").numpy()
