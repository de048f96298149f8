"""What the commands on a project share: say what will be run, run it, write the film."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.finishing import Finishing, write_finished
from nuwaxl.cli.making import Show, load_pipeline, with_progress
from nuwaxl.cli.plan import spell_count, spell_time
from nuwaxl.cli.request import backends_of, check_bundled
from nuwaxl.config import GenerateConfig
from nuwaxl.projects.project import Project
from nuwaxl.projects.state import FilmState
from nuwaxl.stores.folder_lock import FolderInUseError
from nuwaxl.tree.storyline import format_time

if TYPE_CHECKING:
    from nuwaxl.films.film import Film
    from nuwaxl.pipelines.long_video import ExecutorFactory
    from nuwaxl.projects.production import Forecast
    from nuwaxl.tree.coarse_to_fine import OnSegment, SegmentJob


@dataclass(frozen=True)
class Running:
    """Where it runs, and what is shown meanwhile."""

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    quiet: bool = False
    executor: "ExecutorFactory | None" = None
    max_level: int | None = None
    offload: str | None = None
    finishing: Finishing = field(default_factory=Finishing)

    def config(self, state: FilmState) -> GenerateConfig:
        """The settings of a state's film as `nuwaxl generate` knows them."""
        return GenerateConfig(
            fps=state.fps,
            seed=state.seed,
            sampling=state.sampling,
            model=state.model,
            lora=state.lora,
            global_model=state.global_model,
            local_model=state.local_model,
            size=state.size,
            segment_length=state.segment_length if state.local_model else None,
            quantize=state.quantize,
            offload=self.offload,
            device=self.device,
            dtype=self.dtype,
            batch_size=self.batch_size,
        )

    def frames(self, film: "Film", on_segment: "OnSegment | None" = None) -> Iterator[Any]:
        """The pictures that were asked for: all, the coarse film, or more than the film has."""
        if self.max_level is not None:
            from nuwaxl.projects.production import held_frames

            return held_frames(film, self.max_level, on_segment=on_segment)
        if self.finishing.interpolate is not None:
            from nuwaxl.films.interpolation import interpolated_frames

            return interpolated_frames(film, self.finishing.interpolate, on_segment=on_segment)
        return film.frames(on_segment=on_segment)


def running_of(
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    quiet: bool,
    offload: str | None = None,
) -> Running:
    """Check the options that say where it runs."""
    values = {"device": device, "dtype": dtype, "batch_size": batch_size}
    with user_errors(options.option_names(values)):
        GenerateConfig(**{name: value for name, value in values.items() if value is not None})
    return Running(device or "auto", dtype or "auto", batch_size, quiet, offload=offload)


@contextmanager
def opened(folder: Path, project: Project | None = None) -> Iterator[Project]:
    """A project that holds a film, held by this process.

    Raises:
        CommandError: there is none, another process works in it, or a file cannot be written.
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
    except OSError as error:
        # Such as a full disk, where the list of segments or a picture was to be written.
        raise CommandError(
            f"{error.filename or folder}: {error.strerror or error}; what was run before is kept: "
            "when that is mended, run the same again.",
            FAILURE,
        ) from error


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
    show, finishing = Show(running.quiet), running.finishing
    num_frames = finishing.num_frames(state.frames_now)
    with film_of(project, state, running) as film:
        from nuwaxl.projects.production import forecast, segment_jobs

        expected = forecast(film, max_level=running.max_level)
        if not running.quiet or dry_run:
            typer.echo(spell_forecast(expected, state))
        if dry_run:
            return []
        if commit is not None:
            commit()
        project.write_manifest(segment_jobs(film), state.fps)
        with counted(project, film, expected) as count:
            kept = write_finished(
                project.output,
                finishing.fps(state.fps),
                with_progress(running.frames(film, count), num_frames, show),
                finishing,
                state.storyline_now,
                overwrite=True,
                device=running.device,
                dtype=running.dtype,
                keep=keep,
            )
    if not running.quiet:
        taken = spell_time(count.seconds)
        typer.echo(
            f"{project.output}: {spell_count(num_frames, 'frame')}, "
            f"{spell_time(state.frames_now / state.fps)} at {finishing.fps(state.fps):g} fps, "
            f"{spell_count(count.num_runs, 'run')} in {taken}"
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
        check_bundled(config.model, backends_of(config))
        pipeline = load_pipeline(config)
        from nuwaxl.projects.production import open_film

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
def counted(project: Project, film: "Film", expected: "Forecast") -> Iterator[Count]:
    """Count runs, and say what is kept when they break off.

    Raises:
        CommandError: stopped, a file could not be written, or no device could make a run.
    """
    count = Count()

    def kept() -> str:
        film.close()  # which keeps what workers have in hand
        # From the files: a run may be kept whose end nobody has heard of yet.
        num_kept = len(expected.keys.intersection(project.store().keys()))
        return (
            f"{num_kept:,} of {spell_count(expected.num_runs, 'run')} were done and are kept; "
            f"`nuwaxl generate --project {shlex.quote(str(project.folder))}` goes on."
        )

    try:
        yield count
    except KeyboardInterrupt:
        raise CommandError(f"stopped: {kept()}", INTERRUPTED) from None
    except OSError as error:
        raise CommandError(f"{error}: {kept()}", FAILURE) from error
    except RuntimeError as error:
        from nuwaxl.executors.local import SegmentTooLargeError, WorkerLostError

        if not isinstance(error, SegmentTooLargeError | WorkerLostError):
            raise
        raise CommandError(f"{str(error).rstrip('.')}: {kept()}", FAILURE) from error


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
