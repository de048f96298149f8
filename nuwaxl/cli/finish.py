"""`nuwaxl finish`: colours, size, text and sound of a film that is there."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuwaxl.cli import finishing as panel
from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.finishing import Finishing, subtitle_file, write_finished
from nuwaxl.cli.making import Show, with_progress
from nuwaxl.cli.producing import running_of
from nuwaxl.config import read_story
from nuwaxl.tree.storyline import Storyline

if TYPE_CHECKING:
    import numpy as np


def finish(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="A film, or a folder of PNG files.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file .mp4, .mkv, .webm or .gif, or a folder for PNG files.",
        ),
    ],
    prompt: options.Prompts = None,
    story: options.Story = None,
    deflicker: panel.Deflicker = None,
    upscale: panel.Upscale = None,
    upscaler: panel.Upscaler = None,
    subtitles: panel.Subtitles = False,
    burn_captions: panel.BurnCaptions = False,
    font: panel.Font = None,
    audio: panel.Audio = None,
    fps: Annotated[
        float | None,
        typer.Option(
            parser=options.number,
            metavar="NUMBER",
            help="Of a folder that does not say.",
            show_default="the film's",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Finish a film: colours, size, text, sound. The film itself stays as it is."""
    asked = Finishing.of(dict(locals()))
    running = running_of(device, dtype, None, quiet)
    with user_errors():
        if asked == Finishing():
            raise ValueError(
                "say what to do: --deflicker, --upscale, --subtitles, --burn-captions or --audio."
            )
        _check_paths(video, output, overwrite=overwrite)
        asked.check(output, overwrite=overwrite)
        if asked.needs_story and not prompt and story is None:
            raise ValueError("say what the film shows: `--prompt TEXT` or `--story FILE`.")
        info = _probe(video, fps)
        storyline = _storyline(prompt, story, info.num_frames / info.fps)
    try:
        if asked.changes_pictures or video.is_dir() or video.suffix != Path(output).suffix:
            from nuwaxl.video import read_video

            frames = with_progress(_own(read_video(video)), info.num_frames, Show(quiet))
            sound = asked if asked.audio or video.is_dir() else _keeping_sound(asked, video, output)
            write_finished(
                output, info.fps, frames, sound, storyline, overwrite=overwrite,
                device=running.device, dtype=running.dtype,
            )  # fmt: skip
        else:
            _copy(video, output, asked, storyline, info.num_frames / info.fps, overwrite)
    except KeyboardInterrupt:
        raise CommandError(f"stopped; {output} was not written.", INTERRUPTED) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{output} was not written: {error}", FAILURE) from error
    if not quiet:
        typer.echo(f"{output}: {info.num_frames:,} frames at {info.fps:g} fps")


def _check_paths(video: Path, output: str, *, overwrite: bool) -> None:
    from nuwaxl.video import check_output

    if not video.exists():
        raise ValueError(f"VIDEO must be a film or a folder of PNG files, got {str(video)!r}.")
    if Path(output).absolute() == video.absolute():
        raise ValueError("`--output` must be another file than VIDEO, which stays as it is.")
    try:
        check_output(output, overwrite=overwrite)
    except FileExistsError as error:
        raise ValueError(str(error).replace("ask to overwrite it", "add `--overwrite`")) from error


class _Known:
    """Length and rate of a film."""

    def __init__(self, num_frames: int, fps: float) -> None:
        self.num_frames, self.fps = num_frames, fps


def _probe(video: Path, fps: float | None) -> _Known:
    from nuwaxl.video import as_frame_rate, probe

    info = probe(video)
    rate = fps if fps is not None else info.fps
    if rate is None:
        raise ValueError(f"{str(video)!r} does not say its frame rate: add `--fps`.")
    return _Known(info.num_frames, float(as_frame_rate(rate)))


def _storyline(prompt: list[str] | None, story: Path | None, duration: float) -> "Storyline | None":
    if prompt and story is not None:
        raise ValueError("give either `--prompt` or `--story`, not both.")
    if prompt:
        return Storyline.parse(prompt, duration)
    if story is not None:
        return Storyline.parse(read_story(story).scenes, duration)
    return None


def _keeping_sound(asked: Finishing, video: Path, output: str) -> Finishing:
    """The film's own sound, where it has some and the output can hold it."""
    from dataclasses import replace

    from nuwaxl.postprocessing.muxing import check_sound, check_streams

    try:
        check_streams(output, sound=True, subtitles=False)
        check_sound(video)
    except ValueError:
        return asked
    return replace(asked, audio=video)


def _copy(
    video: Path,
    output: str,
    asked: Finishing,
    storyline: "Storyline | None",
    duration: float,
    overwrite: bool,
) -> None:
    """Sound and subtitles alone: pictures are copied bit for bit."""
    from nuwaxl.postprocessing import cues_of, mux, write_srt

    cues = cues_of(storyline, duration) if storyline and asked.subtitles else ()
    has_stream = Path(output).suffix.lower() in (".mp4", ".mkv")
    mux(video, output, sound=asked.audio, cues=cues if has_stream else (), overwrite=overwrite)
    if asked.subtitles:
        write_srt(subtitle_file(output), cues)


def _own(frames: Any) -> Generator["np.ndarray", None, None]:
    yield from frames
