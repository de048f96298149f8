"""`nuwaxl preview` and `nuwaxl clip`: look at a project's film before it is all made."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.cli.making import Show, with_progress, write_film, write_picture
from nuwaxl.cli.plan import spell_count
from nuwaxl.cli.producing import counted, film_of, opened, running_of, spell_runs
from nuwaxl.cli.project import DryRun, Folder, Quiet
from nuwaxl.tree.storyline import format_time, parse_time

if TYPE_CHECKING:
    from nuwaxl.projects.state import FilmState

BOARD_COLUMNS = 4
SLIDE_FPS, FRAMES_PER_SLIDE = 4, 4
"""Players do not like less than a few frames per second: a slide of one second is four."""


def preview(
    folder: Folder,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    quiet: Quiet = False,
) -> None:
    """Show the whole film after one run: a storyboard and a film of slides."""
    running = running_of(device, dtype, batch_size, quiet, offload)
    with opened(folder) as project:
        state = project.current.state
        with film_of(project, state, running) as film:
            from nuwaxl.projects.production import forecast, keyframes

            expected = forecast(film, max_level=0)
            if not quiet:
                typer.echo(spell_runs(expected))
            with counted(project, film, expected) as count:
                slides = list(keyframes(film, on_segment=count))
        board, show = project.folder / "storyboard.png", project.folder / "preview.mp4"
        write_picture(_storyboard(slides, state), board)
        held = (picture for _, picture in slides for _ in range(FRAMES_PER_SLIDE))
        write_film(show, SLIDE_FPS, held, overwrite=True)
    if not quiet:
        typer.echo(f"{board} and {show}: {len(slides)} keyframes of {state.frames_now:,} frames")


def clip(
    folder: Folder,
    at: Annotated[str, typer.Option(metavar="TIME", help="Where it begins, such as 3m12s.")],
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it is.")] = "2s",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file .mp4, .mkv, .webm or .gif, or a folder for PNG files.",
            show_default="clip-TIME.mp4 in the folder",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make a part of the film: only what it needs is run, and the film can be made later."""
    running = running_of(device, dtype, batch_size, quiet, offload)
    with opened(folder) as project:
        state = project.current.state
        with user_errors():
            begin, length = parse_time(at, name="--at"), parse_time(duration, name="--for")
            start, stop = state.frames_between(begin, begin + length)
            path = _clip_path(output, project.folder, begin, overwrite, state.fps)
        with film_of(project, state, running) as film:
            from nuwaxl.projects.production import forecast

            expected = forecast(film, start, stop)
            if dry_run or not quiet:
                typer.echo(spell_runs(expected))
            if dry_run:
                return
            with counted(project, film, expected) as count:
                frames = with_progress(
                    film.frames(start, stop, on_segment=count), stop - start, Show(quiet)
                )
                write_film(path, state.fps, frames, overwrite=True)
    if not quiet:
        runs = spell_count(count.num_runs, "run")
        typer.echo(f"{path}: frames {start:,} to {stop - 1:,}, {runs}")


def _clip_path(output: str | None, folder: Path, begin: float, overwrite: bool, fps: float) -> Path:
    from nuwaxl.video import check_output

    if output is None:
        return folder / f"clip-{re.sub(r'[^0-9a-z]', '_', format_time(begin))}.mp4"
    try:
        check_output(output, overwrite=overwrite, fps=fps)
    except FileExistsError as error:
        raise ValueError(str(error).replace("ask to overwrite it", "add `--overwrite`")) from error
    return Path(output)


def _storyboard(slides: list[tuple[int, Any]], state: "FilmState") -> Any:
    """All keyframes, with time and prompt under each."""
    from nuwaxl.video import contact_sheet

    times = [frame / state.fps for frame, _ in slides]
    prompts = state.storyline_now.prompts_at(times)
    return contact_sheet(
        [picture for _, picture in slides],
        columns=BOARD_COLUMNS,
        labels=[
            f"{format_time(time)}  {prompt}" for time, prompt in zip(times, prompts, strict=True)
        ],
    )
