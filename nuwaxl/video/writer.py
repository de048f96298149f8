"""Write a film frame by frame; it appears under its name only when it is whole.

Knows names, temporary files and checks; the encoding is in `encoders`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np

from nuwaxl.video.encoders import CRF_RANGES, FrameEncoder, make_encoder
from nuwaxl.video.output import OutputKind, as_frame_rate, check_free, check_output


class VideoWriter:
    """Streams pictures into a film, in memory that does not grow with its length.

    Use it as a context manager. The film is written under a hidden name in the same folder and
    takes its own name at the end; when the block raises, nothing is left behind.

        with VideoWriter("journey.mp4", fps=8) as writer:
            for frame in frames:
                writer.write(frame)

    Attributes:
        path: where the film will be.
        kind: what is written.
        fps: frames per second, exact.
        num_frames: pictures written so far.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | Fraction,
        *,
        overwrite: bool = False,
        crf: int | None = None,
        keep_partial: bool = False,
    ) -> None:
        """Check everything that can be checked without a picture.

        Args:
            path: .mp4 or .mkv (H.264), .webm (VP9), .gif, or a folder of PNGs: ends in '/'
                or has no ending.
            fps: frames per second, 1 to 240 (GIF: to 50); see `as_frame_rate`.
            overwrite: replace what is there, at the end; off, an existing output is refused.
            crf: constant rate factor: smaller is better and larger. H.264: 1 to 51, by default
                18; VP9: 1 to 63, by default 24. The other kinds have none.
            keep_partial: keep what was written before a failure, playable, as NAME.partial.mp4
                (NAME.partial for a folder), in place of an earlier one.

        Raises:
            ValueError: the ending, `fps` or `crf` is out of range.
            OSError: the output cannot be written; the kinds are those of `check_output`.
        """
        self.kind = check_output(path, overwrite=overwrite)
        self.path = Path(path)
        self.fps = as_frame_rate(fps, kind=self.kind)
        self.num_frames = 0
        _check_crf(crf, self.kind)
        self._crf = crf
        self._overwrite, self._keep_partial = overwrite, keep_partial
        # Absolute, so that a change of the working directory during a long film loses nothing.
        self._target = self.path.absolute()
        self._hidden = self._target.with_name(f".nuwaxl-{uuid4().hex}{self.kind.value}")
        self._shape: tuple[int, ...] = ()
        self._encoder: FrameEncoder | None = None
        self._closed = False
        if keep_partial:
            check_free(self.partial_path, self.kind, overwrite=True)

    @property
    def partial_path(self) -> Path:
        """Where `keep_partial` keeps a film that was not finished."""
        if self.kind is OutputKind.FOLDER:
            return self._target.with_name(f"{self._target.name}.partial")
        return self._target.with_name(f"{self._target.stem}.partial{self._target.suffix}")

    def write(self, frame: np.ndarray) -> None:
        """Append a picture.

        Args:
            frame: uint8 of shape (height, width, 3), RGB; every frame has the size of the first.

        Raises:
            ValueError: the picture is of another type or size, or the film is closed.
        """
        if self._closed:
            raise ValueError(f"The film '{self.path}' is closed.")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(
                "`frame` must be uint8 of shape (height, width, 3), got "
                f"{frame.dtype} of shape {frame.shape}."
            )
        if self._encoder is None:
            height, width, _ = self._shape = frame.shape
            self._encoder = make_encoder(
                self.kind, self._hidden, self.fps, height=height, width=width, crf=self._crf
            )
        if frame.shape != self._shape:
            raise ValueError(
                f"Every frame must have the shape of the first, {self._shape}; frame "
                f"{self.num_frames} has {frame.shape}."
            )
        self._encoder.add(frame)
        self.num_frames += 1

    def close(self) -> None:
        """Finish the film and give it its name; does nothing when closed already.

        Raises:
            ValueError: no frame was written.
            FileExistsError: another file took the name meanwhile and `overwrite` is off; the
                film is then kept under the partial name.
        """
        if self._closed:
            return
        if self._encoder is None:
            self._closed = True
            raise ValueError(f"No frame was written to '{self.path}': a film has at least one.")
        self._closed = True
        try:
            self._encoder.close()
            self._take_name()
        finally:
            _remove(self._hidden)

    def abort(self) -> None:
        """Give the film up: remove it, or keep its beginning where `keep_partial` is on."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._encoder is not None:
                # The reason to give up is on its way to the caller; a full disk may well be it.
                with contextlib.suppress(Exception):
                    self._encoder.close()
                if self._keep_partial and self.num_frames:
                    _move(self._hidden, self.partial_path)
        finally:
            _remove(self._hidden)

    def _take_name(self) -> None:
        try:
            check_free(self._target, self.kind, overwrite=self._overwrite)
        except FileExistsError as error:
            _move(self._hidden, self.partial_path)
            raise FileExistsError(
                f"'{self.path}' was taken by something else while the film was made; the film is "
                f"whole and kept as '{self.partial_path}'."
            ) from error
        _move(self._hidden, self._target)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_video(
    frames: Iterable[np.ndarray],
    path: str | os.PathLike[str],
    fps: float | Fraction,
    *,
    overwrite: bool = False,
    crf: int | None = None,
    keep_partial: bool = False,
) -> int:
    """Write a film from pictures that are taken one at a time.

    Args:
        frames: uint8 pictures of shape (height, width, 3), RGB, of one size.
        path: see `VideoWriter`, as for the other arguments and the errors.
        fps: frames per second.
        overwrite: replace what is there.
        crf: constant rate factor of .mp4, .mkv and .webm.
        keep_partial: keep the beginning when a frame fails.

    Returns:
        The number of frames written.
    """
    with VideoWriter(path, fps, overwrite=overwrite, crf=crf, keep_partial=keep_partial) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.num_frames


def _check_crf(crf: int | None, kind: OutputKind) -> None:
    if crf is None:
        return
    if kind not in CRF_RANGES:
        raise ValueError("`crf` is a setting of .mp4, .mkv and .webm; a .gif or a folder has none.")
    largest = CRF_RANGES[kind][0]
    if not 1 <= crf <= largest:
        raise ValueError(f"`crf` of a {kind.value} must be from 1 to {largest}, got {crf}.")


def _move(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir() and not target.is_symlink():
        # A folder replaces only an empty one: the old goes aside first and last.
        aside = source.with_name(source.name + ".old")
        os.replace(target, aside)
        try:
            os.replace(source, target)
        except OSError:
            os.replace(aside, target)
            raise
        _remove(aside)
    else:
        os.replace(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
