"""Where a film may be written, decided before any frame exists.

Knows paths and frame rates, not pixels: standard library only.
"""

import os
import re
import tempfile
from enum import Enum
from fractions import Fraction
from pathlib import Path

MIN_FPS, MAX_FPS = 1, 240
# A GIF counts in hundredths of a second, and players slow every delay below two of them down.
MAX_GIF_FPS = 50
FRAME_NAME = re.compile(r"frame_\d{6,}\.png")


class OutputKind(Enum):
    """What a path asks for; the value is the ending."""

    MP4 = ".mp4"
    MKV = ".mkv"
    WEBM = ".webm"
    GIF = ".gif"
    FOLDER = ""


def output_kind(path: str | os.PathLike[str]) -> OutputKind:
    """The kind of film that a path names.

    Args:
        path: a file ending in .mp4, .mkv, .webm or .gif, or a folder: ends in '/', has no
            ending, or is a folder already.

    Raises:
        ValueError: the ending is none of these.
    """
    text = os.fspath(path)
    ending = Path(text).suffix.lower()
    if text.endswith(("/", os.sep)) or not ending:
        return OutputKind.FOLDER
    if ending in {kind.value for kind in OutputKind}:
        return OutputKind(ending)
    if Path(text).is_dir():
        return OutputKind.FOLDER
    raise ValueError(
        f"The output {text!r} ends in {ending!r}; known are .mp4, .mkv, .webm, .gif, a folder of "
        "PNG pictures (a name without an ending, or one that ends in '/')."
    )


def as_frame_rate(fps: float | Fraction, *, kind: OutputKind | None = None) -> Fraction:
    """Frames per second as the exact fraction that a film stores.

    Decimals such as 23.976 and 29.97 become the broadcast rates they abbreviate (24000/1001,
    30000/1001); any other number becomes the nearest fraction with a denominator up to 1001.

    Args:
        fps: frames per second, from 1 to 240.
        kind: what is to be written, where that allows less: a GIF shows at most 50.

    Raises:
        ValueError: the rate is out of range or no number.
    """
    if isinstance(fps, bool) or not isinstance(fps, int | float | Fraction):
        raise ValueError(f"`fps` must be a number of frames per second, got {fps!r}.")
    if not MIN_FPS <= fps <= MAX_FPS:  # also false for nan
        raise ValueError(f"`fps` must be from {MIN_FPS} to {MAX_FPS}, got {fps}.")
    if kind is OutputKind.GIF and fps > MAX_GIF_FPS:
        raise ValueError(
            f"A .gif shows at most {MAX_GIF_FPS} frames per second, got {fps}: lower `fps`, or "
            "write .mp4 or .webm."
        )
    rate = Fraction(fps).limit_denominator(1001)
    broadcast = Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001)
    if rate.denominator != 1 and abs(rate - broadcast) < Fraction(1, 1000):
        return broadcast
    return rate


def check_output(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    fps: float | Fraction | None = None,
) -> OutputKind:
    """Refuse, before any work, a path to which a film could not be written.

    Args:
        path: where the film shall go; see `output_kind`.
        overwrite: allow a file, or a folder that holds nothing but frames, to be replaced.
        fps: checked too where given; see `as_frame_rate`.

    Returns:
        What will be written.

    Raises:
        ValueError: the ending is unknown, or the frame rate is out of range.
        FileNotFoundError: the folder that shall hold the output does not exist.
        NotADirectoryError: that folder is a file.
        PermissionError: nothing can be written there.
        FileExistsError: the output exists, and `overwrite` is off or would delete other files.
    """
    kind = output_kind(path)
    if fps is not None:
        as_frame_rate(fps, kind=kind)
    target = Path(path)
    _check_parent(target)
    check_free(target, kind, overwrite=overwrite)
    return kind


def check_free(target: Path, kind: OutputKind, *, overwrite: bool) -> None:
    """Refuse a name that is taken; the part of `check_output` that a long run can outdate.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is off or would delete other files.
    """
    if kind is OutputKind.FOLDER:
        _check_folder(target, overwrite=overwrite)
    elif target.is_dir():
        raise FileExistsError(f"The output '{target}' is a folder: choose another name.")
    elif (target.exists() or target.is_symlink()) and not overwrite:
        raise FileExistsError(
            f"The output '{target}' exists: choose another name, or ask to overwrite it."
        )


def _check_parent(target: Path) -> None:
    parent = target.absolute().parent
    if not parent.exists():
        raise FileNotFoundError(
            f"The folder '{target.parent}' of the output '{target}' does not exist: make it first."
        )
    if not parent.is_dir():
        raise NotADirectoryError(
            f"'{target.parent}' of the output '{target}' is a file, not a folder."
        )
    try:
        # Only a trial tells: permission bits know nothing of read-only disks and of root.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"The folder '{target.parent}' of the output '{target}' cannot be written: "
            f"{error.strerror}."
        ) from error


def _check_folder(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(
            f"The output '{target}' is a file, and a folder of PNG pictures was asked for: choose "
            "another name, or an ending such as .mp4."
        )
    with os.scandir(target) as entries:
        for entry in entries:
            if not overwrite:
                raise FileExistsError(
                    f"The output folder '{target}' is not empty: choose another name, or ask to "
                    "overwrite it."
                )
            if not FRAME_NAME.fullmatch(entry.name):
                raise FileExistsError(
                    f"The output folder '{target}' holds {entry.name!r}, which is no frame of a "
                    "film and would be lost: choose another folder."
                )
