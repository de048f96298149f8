"""What follows once a film's frames are made: options, checks, and the film written with them."""

import os
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from nuwaxl.cli import options
from nuwaxl.cli.making import write_film

if TYPE_CHECKING:
    import numpy as np

    from nuwaxl.tree.storyline import Storyline

PANEL = "Finishing"

Interpolate = Annotated[
    int | None,
    typer.Option(
        parser=options.whole_number,
        metavar="K",
        help="K times the frame rate, by one more level of the tree: 2 doubles it.",
        rich_help_panel=PANEL,
    ),
]
Deflicker = Annotated[
    int | None,
    typer.Option(
        parser=options.whole_number,
        metavar="FRAMES",
        help="Match each frame's colours to so many frames on either side; 7 is a good start.",
        rich_help_panel=PANEL,
    ),
]
Upscale = Annotated[
    float | None,
    typer.Option(
        parser=options.number, metavar="FACTOR", help="Larger pictures.", rich_help_panel=PANEL
    ),
]
Upscaler = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER_OR_ID",
        help="An upscaler of diffusers that makes them larger.",
        show_default="Lanczos",
        rich_help_panel=PANEL,
    ),
]
Subtitles = Annotated[
    bool,
    typer.Option(
        "--subtitles",
        help="Write the story as a .srt file, and as a subtitle stream into .mp4 and .mkv.",
        rich_help_panel=PANEL,
    ),
]
BurnCaptions = Annotated[
    bool,
    typer.Option(
        "--burn-captions", help="Draw the story's text into the pictures.", rich_help_panel=PANEL
    ),
]
Font = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Of --burn-captions, for other letters than English ones.",
        rich_help_panel=PANEL,
    ),
]
Audio = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A sound track, repeated or cut to the film's length.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Finishing:
    """What was asked for; without anything the film is written as it is."""

    interpolate: int | None = None
    deflicker: int | None = None
    upscale: float | None = None
    upscaler: str | None = None
    subtitles: bool = False
    burn_captions: bool = False
    font: Path | None = None
    audio: Path | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Finishing":
        """From a command's options by their names."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    @property
    def changes_pictures(self) -> bool:
        """Whether frames have to be decoded and encoded."""
        steps = (self.interpolate, self.deflicker, self.upscale, self.upscaler)
        return self.burn_captions or any(step is not None for step in steps)

    @property
    def needs_story(self) -> bool:
        """Whether it says or reads what is shown when."""
        return self.subtitles or self.burn_captions

    def num_frames(self, own: int) -> int:
        """Frames of the finished film, from those of the film itself."""
        return (own - 1) * (self.interpolate or 1) + 1

    def fps(self, own: float) -> float:
        """Frames per second of the finished film."""
        return own * (self.interpolate or 1)

    def check(self, output: str, *, fps: float | None = None, overwrite: bool = True) -> None:
        """Refuse what cannot be done, before anything is made or loaded.

        Args:
            output: of the film.
            fps: of the film itself.
            overwrite: whether a subtitle file may be replaced.

        Raises:
            ValueError: one line with argument, rule, value and way out.
            OSError: a file is not there.
        """
        if self.interpolate is not None and self.interpolate < 2:
            raise ValueError(
                f"`--interpolate` must be 2 or more (2 doubles the rate), got {self.interpolate}."
            )
        if self.interpolate is not None and fps is not None:
            from nuwaxl.video.output import as_frame_rate, output_kind

            as_frame_rate(self.fps(fps), kind=output_kind(output))
        if self.font is not None and not self.burn_captions:
            raise ValueError("`--font` is for captions: add `--burn-captions`.")
        if self.deflicker is not None:
            from nuwaxl.postprocessing import Deflicker

            _said("--deflicker", "radius", lambda: Deflicker(self.deflicker or 0))
        if self.upscale is not None:
            from nuwaxl.postprocessing import LanczosUpscale

            _said("--upscale", "factor", lambda: LanczosUpscale(self.upscale or 0))
        if self.upscaler is not None:
            from nuwaxl.postprocessing.upscale import check_upscaler

            _said("--upscaler", "the upscaler", lambda: check_upscaler(self.upscaler or ""))
        if self.burn_captions:
            from nuwaxl.postprocessing import BurnCaptions

            _said("--font", "font", lambda: BurnCaptions((), 1.0, font=self.font))
        if self.audio is not None:
            from nuwaxl.postprocessing import check_sound
            from nuwaxl.postprocessing.muxing import check_streams

            check_streams(output, sound=True, subtitles=False)
            _said("--audio", "", lambda: check_sound(self.audio or ""))
        srt = subtitle_file(output)
        if self.subtitles and srt.exists() and not overwrite:
            raise ValueError(f"`--subtitles`: {str(srt)!r} exists; add `--overwrite`.")

    def steps(
        self, storyline: "Storyline | None", fps: float, device: str, dtype: str
    ) -> list[Any]:
        """What is done to the frames, in this order: colours, size, text.

        Args:
            storyline: of the film.
            fps: of the frames as they come.
            device: of an upscaler; 'auto': the fastest.
            dtype: of its weights; 'auto': fp32.
        """
        from nuwaxl import postprocessing

        steps: list[Any] = []
        if self.deflicker is not None:
            steps.append(postprocessing.Deflicker(self.deflicker))
        if self.upscaler is not None:
            import torch

            from nuwaxl.postprocessing.upscale import load_upscaler
            from nuwaxl.tensors.devices import best_device

            upscaler = load_upscaler(
                self.upscaler,
                best_device() if device == "auto" else device,
                None if dtype == "auto" else getattr(torch, dtype),
            )
            steps.append(
                postprocessing.ModelUpscale(
                    upscaler,
                    lambda frame: storyline.prompt_at(frame / fps) if storyline else "",
                    factor=self.upscale,
                )
            )
        elif self.upscale is not None:
            steps.append(postprocessing.LanczosUpscale(self.upscale))
        if self.burn_captions:
            assert storyline is not None
            # The last scene goes on for ever, and so does its text.
            cues = postprocessing.cues_of(storyline, float("inf"))
            steps.append(postprocessing.BurnCaptions(cues, fps, font=self.font))
        return steps


def _said(option: str, name: str, check: Any) -> None:
    """Run a check; its line speaks of the option."""
    try:
        check()
    except (ValueError, OSError) as error:
        text = str(error).replace(f"`{name}`", f"`{option}`")
        raise ValueError(text if option in text else f"`{option}`: {text}") from error


def subtitle_file(output: str | os.PathLike[str]) -> Path:
    """Where the subtitles of a film are written."""
    return Path(os.fspath(output).rstrip("/")).with_suffix(".srt")


def write_finished(
    path: str | os.PathLike[str],
    fps: float,
    frames: Generator["np.ndarray", None, None],
    finishing: Finishing,
    storyline: "Storyline | None",
    *,
    overwrite: bool,
    device: str = "auto",
    dtype: str = "auto",
    keep: Collection[int] = (),
) -> "list[tuple[int, np.ndarray]]":
    """Write a film with all that was asked for, whole or not at all.

    Args:
        path: of the film.
        fps: frames per second of `frames`.
        frames: in display order, already interpolated.
        finishing: what was asked for.
        storyline: of the film.
        overwrite: replace what is there.
        device: of an upscaler.
        dtype: of an upscaler.
        keep: numbers of frames to return.

    Returns:
        The finished frames of these numbers.
    """
    from nuwaxl.postprocessing import cues_of, finish, mux, write_srt
    from nuwaxl.video.output import OutputKind, output_kind

    steps = finishing.steps(storyline, fps, device, dtype)
    stream = _closing(frames, finish(frames, steps)) if steps else frames
    has_stream = finishing.subtitles and output_kind(path) in (OutputKind.MP4, OutputKind.MKV)
    if finishing.audio is None and not has_stream:
        counted = _Counted(stream)
        kept = write_film(path, fps, counted.frames(), overwrite=overwrite, keep=keep)
    else:
        target = Path(path).absolute()
        hidden = target.with_name(f".nuwaxl-{uuid4().hex}{target.suffix}")
        try:
            counted = _Counted(stream)
            kept = write_film(hidden, fps, counted.frames(), overwrite=False, keep=keep)
            cues = cues_of(storyline, counted.num / fps) if has_stream and storyline else ()
            mux(hidden, path, sound=finishing.audio, cues=cues, overwrite=overwrite)
        finally:
            hidden.unlink(missing_ok=True)
    if finishing.subtitles and storyline is not None:
        write_srt(subtitle_file(path), cues_of(storyline, counted.num / fps))
    return kept


class _Counted:
    """Passes frames on and counts them: a project's film or a file says its length only so."""

    def __init__(self, stream: Generator["np.ndarray", None, None]) -> None:
        self.stream, self.num = stream, 0

    def frames(self) -> Generator["np.ndarray", None, None]:
        """The frames; closed with them, what makes them."""
        try:
            for frame in self.stream:
                self.num += 1
                yield frame
        finally:
            self.stream.close()


def _closing(
    source: Generator["np.ndarray", None, None], frames: Iterable["np.ndarray"]
) -> Generator["np.ndarray", None, None]:
    """The frames; `source`, from which they are made, is closed with them."""
    try:
        yield from frames
    finally:
        source.close()
