"""What the commands on a project share: say what will be run, run it, write the film."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.making import Show, load_pipeline, with_progress, write_film
from nuwaxl.cli.plan import spell_time
from nuwaxl.cli.request import check_bundled
from nuwaxl.config import GenerateConfig
from nuwaxl.film_state import FilmState
from nuwaxl.folder_lock import FolderInUseError
from nuwaxl.project import Project
from nuwaxl.storyline import format_time

if TYPE_CHECKING:
    from nuwaxl.coarse_to_fine import SegmentJob
    from nuwaxl.film import Film
    from nuwaxl.pipeline import ExecutorFactory
    from nuwaxl.production import Forecast


@dataclass(frozen=True)
class Running:
    """Where it runs, and what is shown meanwhile."""

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    quiet: bool = False
    executor: "ExecutorFactory | None" = None
    max_level: int | None = None

    def config(self, state: FilmState) -> GenerateConfig:
        """The settings of a state's film as `nuwaxl generate` knows them."""
        return GenerateConfig(
            fps=state.fps,
            seed=state.seed,
            sampling=state.sampling,
            model=state.model,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
        )


def running_of(
    device: str | None, dtype: str | None, batch_size: int | None, quiet: bool
) -> Running:
    """Check the options that say where it runs."""
    values = {"device": device, "dtype": dtype, "batch_size": batch_size}
    with user_errors(options.option_names(values)):
        GenerateConfig(**{name: value for name, value in values.items() if value is not None})
    return Running(device or "auto", dtype or "auto", batch_size, quiet)


@contextmanager
def opened(folder: Path, project: Project | None = None) -> Iterator[Project]:
    """A project that holds a film, held by this process.

    Raises:
        CommandError: there is none, or another process works in it.
    """
    with user_errors():
        if project is None:
            project = Project(folder)
            _ = project.current
    try:
        with project:
            yield project
    except FolderInUseError as error:
        raise CommandError(str(error)) from error


def make(
    project: Project,
    state: FilmState,
    running: Running,
    *,
    dry_run: bool = False,
    commit: Callable[[], object] | None = None,
    keep: frozenset[int] = frozenset(),
) -> list[tuple[int, Any]]:
    """Say what will be run, run it, and write the film.

    Args:
        project: held by this process.
        state: the film to make.
        running: where and how.
        dry_run: only say it.
        commit: called once it is said and before anything runs.
        keep: numbers of frames to return.

    Raises:
        CommandError: stopped, or the disk is full; what was run before is kept.
    """
    show = Show(running.quiet)
    with film_of(project, state, running) as film:
        from nuwaxl.production import forecast, held_frames, segment_jobs

        expected = forecast(film, max_level=running.max_level)
        if not running.quiet or dry_run:
            typer.echo(spell_forecast(expected, state))
        if dry_run:
            return []
        if commit is not None:
            commit()
        project.write_manifest(segment_jobs(film), state.fps)
        with counted(project, expected.num_runs) as count:
            frames = (
                film.frames(on_segment=count)
                if running.max_level is None
                else held_frames(film, running.max_level, on_segment=count)
            )
            kept = write_film(
                project.output,
                state.fps,
                with_progress(frames, state.frames_now, show),
                overwrite=True,
                keep=keep,
            )
    if not running.quiet:
        taken = spell_time(count.seconds)
        typer.echo(
            f"{project.output}: {state.frames_now:,} frames, "
            f"{spell_time(state.frames_now / state.fps)} at {state.fps:g} fps, {count.num_runs:,} "
            f"runs in {taken}"
        )
    return kept


@contextmanager
def film_of(project: Project, state: FilmState, running: Running) -> Iterator["Film"]:
    """The film of a state, its model loaded.

    Raises:
        CommandError: the model or device cannot be used.
    """
    config = running.config(state)
    with user_errors():
        check_bundled(config.model)
        pipeline = load_pipeline(config)
        from nuwaxl.production import open_film

        film = open_film(
            project,
            state,
            pipeline,
            batch_size=running.batch_size,
            executor=running.executor,
        )
    with film:
        yield film


class Count:
    """Counts runs as they end."""

    def __init__(self) -> None:
        self.num_runs = 0
        self._started = time.monotonic()

    def __call__(self, job: "SegmentJob", latents: Any) -> None:
        """Hear of a run that has ended."""
        self.num_runs += 1

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started


@contextmanager
def counted(project: Project, num_expected: int) -> Iterator[Count]:
    """Count runs, and say what is kept when they break off.

    Raises:
        CommandError: stopped, or a file could not be written.
    """
    count = Count()

    def kept() -> str:
        return (
            f"{count.num_runs:,} of {num_expected:,} runs were done and are kept; "
            f"`nuwaxl generate --project {shlex.quote(str(project.folder))}` goes on."
        )

    try:
        yield count
    except KeyboardInterrupt:
        raise CommandError(f"stopped: {kept()}", INTERRUPTED) from None
    except OSError as error:
        raise CommandError(f"{error}: {kept()}", FAILURE) from error


def spell_runs(expected: "Forecast") -> str:
    """'will run 7 of 241: 1 at level 0, 2 at level 1, 4 at level 2'."""
    runs = ", ".join(f"{n:,} at level {level}" for level, n in expected.runs_per_level.items())
    line = f"will run {expected.num_runs:,} of {expected.num_segments:,}"
    return f"{line}: {runs}" if runs else line


def spell_forecast(expected: "Forecast", state: FilmState) -> str:
    """What a state of the film runs, and where its last edit is."""
    if not state.edits:
        return spell_runs(expected)
    last = state.edits[-1]
    times = f"{format_time(last.start / state.fps)}..{format_time(last.stop / state.fps)}"
    line = f"{times}, frames {last.start:,} to {last.stop - 1:,}: {spell_runs(expected)}"
    older = expected.num_runs - expected.num_for_last_edit
    return f"{line} ({older:,} of them were not finished before)" if older else line
