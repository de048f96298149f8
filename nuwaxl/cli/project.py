"""A project folder on the command line: change the film, look into it, go back.

Every command that runs something says first what it will run, and runs exactly that.
"""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.cli.producing import Running, make, opened, running_of
from nuwaxl.projects.project import Project
from nuwaxl.projects.state import FilmState
from nuwaxl.tree.storyline import parse_length, parse_time

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Of the film: `generate --project` made it.")
]
At = Annotated[
    str,
    typer.Option(
        metavar="FROM..TO", help="Times such as 12s..20s, 1m5s..1m20s, or 12s.. to the end."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Seed = Annotated[
    int | None,
    typer.Option(
        parser=options.whole_number,
        metavar="N",
        help="Of the new noise.",
        show_default="one not used yet",
    ),
]


# ---- Commands -------------------------------------------------------------------------------


def edit(
    folder: Folder,
    at: At,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="What to show.")],
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Show something else for a while; all other frames stay as they are."""
    running = running_of(device, dtype, batch_size, quiet, offload)

    def change(state: FilmState) -> FilmState:
        return state.with_prompt(*parse_range(at), prompt)

    command = f"edit --at {at} --prompt {shlex.quote(prompt)}"
    _change(folder, change, command, running, dry_run=dry_run)


def reroll(
    folder: Folder,
    at: At,
    seed: Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make a range again from other noise; all other frames stay as they are."""
    running = running_of(device, dtype, batch_size, quiet, offload)

    def change(state: FilmState) -> FilmState:
        return state.rerolled(*parse_range(at), seed)

    command = f"reroll --at {at}" + (f" --seed {seed}" if seed is not None else "")
    _change(folder, change, command, running, dry_run=dry_run)


def pin(
    folder: Folder,
    at: Annotated[str, typer.Option(metavar="TIME", help="When to show it, such as 5s.")],
    image: Annotated[Path, typer.Option(metavar="FILE", help="The picture.")],
    around: Annotated[
        str, typer.Option(metavar="TIME", help="How far on both sides the film may follow it.")
    ] = "2s",
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Show a picture at a moment; frames farther than --around stay as they are."""
    running = running_of(device, dtype, batch_size, quiet, offload)

    def change(state: FilmState) -> FilmState:
        moment, reach = parse_time(at, name="--at"), parse_time(around, name="--around")
        _check_picture(image)
        return state.with_picture(moment, Project(folder).add_picture(image), reach)

    command = f"pin --at {at} --image {shlex.quote(str(image))} --around {around}"
    _change(folder, change, command, running, dry_run=dry_run)


def extend(
    folder: Folder,
    length: Annotated[str, typer.Option(metavar="LENGTH", help="Of the whole film: 3m, 1440.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="What the new part shows.",
            show_default="the last scene goes on",
        ),
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make the film longer; the frames that it has stay as they are."""
    running = running_of(device, dtype, batch_size, quiet, offload)

    def change(state: FilmState) -> FilmState:
        return state.extended(parse_length(length, state.fps), prompt)

    said = f" --prompt {shlex.quote(prompt)}" if prompt is not None else ""
    _change(folder, change, f"extend --length {length}{said}", running, dry_run=dry_run)


def undo(
    folder: Folder,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    offload: options.Offload = None,
    quiet: Quiet = False,
) -> None:
    """Take the last change back; its segments stay, so doing it again runs nothing."""
    running = running_of(device, dtype, batch_size, quiet, offload)
    with opened(folder) as project:
        with user_errors():
            undone, revision = project.current, project.undo()
        if not quiet:
            typer.echo(f"took back: {undone.command}")
        make(project, revision.state, running)


def log(folder: Folder) -> None:
    """List what was done to the film; `*` is how it is now."""
    with user_errors():
        project = Project(folder)
        current, history = project.current, project.history()
    parents = {revision.number: revision.parent for revision in history}
    chain, number = set(), current.number
    while number:
        chain.add(number)
        number = parents[number]
    for revision in history:
        mark = "*" if revision.number == current.number else " "
        undone = "" if revision.number in chain else "  (taken back)"
        when = revision.time.replace("T", " ").removesuffix("+00:00")
        typer.echo(f"{mark} {revision.number:>3}  {when}  {revision.command}{undone}")


# ---- What they share ------------------------------------------------------------------------


def parse_range(text: str) -> tuple[float, float]:
    """Start and stop in seconds of '12s..20s', '..20s' or '12s..'.

    Raises:
        ValueError: it is no range.
    """
    start, dots, stop = text.partition("..")
    if not dots:
        raise ValueError(f"`--at` must be two times such as 12s..20s, got {text!r}.")
    first = parse_time(start, name="--at") if start.strip() else 0.0
    last = parse_time(stop, name="--at") if stop.strip() else math.inf
    if first >= last:
        raise ValueError(f"`--at` must end after it begins, got {text!r}.")
    return first, last


def _change(
    folder: Path,
    change: Callable[[FilmState], FilmState],
    command: str,
    running: Running,
    *,
    dry_run: bool,
) -> None:
    """Try a change, say what it runs, and unless it is a dry run make it."""
    with opened(folder) as project:
        with user_errors({"length": "--length", "prompt": "--prompt"}):
            state = change(project.current.state)
        make(
            project, state, running, dry_run=dry_run, commit=lambda: project.commit(state, command)
        )


def _check_picture(path: Path) -> None:
    from nuwaxl.pictures.reading import read_picture

    try:
        read_picture(path, height=8, width=8)
    except ValueError as error:
        raise ValueError(str(error).replace("`images`", "`--image`")) from None
