"""`nuwaxl plan`: what a film costs, from its length alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.cli.planned_model import as_json as model_as_json
from nuwaxl.cli.planned_model import film_work, planned_model, show_model
from nuwaxl.cli.request import FilmRequest, resolve_request
from nuwaxl.tree.timeline import Timeline

SECONDS_PER_RUN = 0.23
"""Bundled model, default settings, decoding and writing included, on 2 CPU cores with bf16
instructions: 226 frames in 16 runs took 3.7 s (`python -m benchmarks.films --frames 226`). Another
machine, model or number of steps has another number: pass it."""


@dataclass(frozen=True)
class LevelPlan:
    """One level of the keyframe tree."""

    level: int
    runs: int
    spacing_frames: float
    """Mean distance of neighbouring frames."""
    spacing_seconds: float
    new_frames: int
    frames_per_run: float
    """Mean, given ends included."""


@dataclass(frozen=True)
class Plan:
    """What a film costs."""

    num_frames: int
    seconds: float
    fps: float
    segment_length: int
    depth: int
    runs: int
    frames_evaluated: int
    frames_evaluated_per_frame: float
    critical_path: int
    """Runs that must wait for each other: all else can run at the same time."""
    workers: int
    seconds_per_run: float | None
    """None: nobody has measured this model."""
    expected_seconds: float | None
    levels: tuple[LevelPlan, ...]
    scenes: tuple[tuple[float, str], ...]
    """Start in seconds and prompt."""


def plan(
    assignments: options.Assignments = None,
    prompt: options.Prompts = None,
    story: options.Story = None,
    length: options.Length = None,
    depth: options.Depth = None,
    fps: options.Fps = None,
    config: options.Config = None,
    segment_length: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number,
            metavar="FRAMES",
            help="Frames per run.",
            show_default="as the model says, 16",
        ),
    ] = None,
    seconds_per_run: Annotated[
        float | None,
        typer.Option(
            parser=options.number,
            metavar="SECONDS",
            help="Time of one full run on your machine.",
            show_default=f"{SECONDS_PER_RUN} for the bundled model",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(parser=options.whole_number, metavar="N", help="Runs at the same time.")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_FILE",
            help="Also show weights, memory and operations of a model: its folder, or a settings "
            "file that says its `parts`.",
            show_default="the bundled model, not shown",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show levels, runs and expected time of a film, without making it."""
    values = {"length": length, "depth": depth, "fps": fps, "model": model}
    with user_errors(options.option_names(values)):
        if workers < 1:
            raise ValueError(f"`--workers` must be 1 or more, got {workers}.")
        if seconds_per_run is not None and not 0 < seconds_per_run < math.inf:
            raise ValueError(f"`--seconds-per-run` must be above 0, got {seconds_per_run:g}.")
        named = planned_model(model, config, assignments)
        request = resolve_request(
            prompts=prompt,
            story=story,
            config_file=named.config_file,
            assignments=assignments,
            overrides=options.overrides(values) | named.overrides,
            needs_prompt=False,
            segment_length=named.segment_length(segment_length),
        )
        if request.backends is not None and seconds_per_run is None:
            raise ValueError(
                f"`--seconds-per-run` is needed for {request.backends.names}: how long a run takes "
                "on your machine, which nobody has measured here; 1 counts runs."
            )
        parts = None if request.backends is not None else named.read_parts()
    result = plan_film(request, workers=workers, seconds_per_run=seconds_per_run or SECONDS_PER_RUN)
    if parts is None:
        typer.echo(json.dumps(asdict(result), indent=2)) if as_json else _show(result)
        return
    if seconds_per_run is None:
        result = replace(result, seconds_per_run=None, expected_seconds=None)
    from nuwaxl.parts.costs import model_costs

    with user_errors():
        costs = model_costs(parts)
    held = [level.runs * level.frames_per_run for level in result.levels]
    work = film_work(costs, request.config.sampling, held, result.num_frames)
    if as_json:
        typer.echo(json.dumps(asdict(result) | {"model": model_as_json(costs, work)}, indent=2))
    else:
        _show(result)
        show_model(costs, work)


def plan_film(request: FilmRequest, *, workers: int, seconds_per_run: float) -> Plan:
    """Count runs and frames of `request`.

    The expected time takes level after level, each with all workers: runs of a level are
    independent, levels are not. Workers that the last round of a level leaves idle begin with the
    next level, below the runs that earlier rounds have ended. A run of fewer frames is taken to
    need less time in proportion.

    Args:
        request: what is to be made.
        workers: runs at the same time.
        seconds_per_run: time of one run of full length.
    """
    timeline, fps = request.timeline, request.config.fps
    levels = plan_levels(timeline, fps)
    full_runs, num_begun = 0.0, 0
    for level in levels:
        runs = max(0, level.runs - num_begun)
        rounds = math.ceil(runs / workers)
        full_runs += rounds * level.frames_per_run / timeline.segment_length
        num_begun = rounds * workers - runs if rounds > 1 else 0
    scenes = request.storyline.scenes if request.storyline else ()
    return Plan(
        num_frames=timeline.num_frames,
        seconds=request.duration,
        fps=fps,
        segment_length=timeline.segment_length,
        depth=timeline.num_levels,
        runs=timeline.num_segments,
        frames_evaluated=timeline.frames_evaluated,
        frames_evaluated_per_frame=round(timeline.frames_evaluated / timeline.num_frames, 4),
        critical_path=timeline.num_levels,
        workers=workers,
        seconds_per_run=seconds_per_run,
        expected_seconds=round(full_runs * seconds_per_run, 3),
        levels=levels,
        scenes=tuple((scene.start, scene.prompt) for scene in scenes),
    )


def plan_levels(timeline: Timeline, fps: float) -> tuple[LevelPlan, ...]:
    """Figures of each level, in closed form, whatever the length.

    Level k's frames split the film into P_k = n_0 * ... * n_k parts, or into single frames.

    Args:
        timeline: without pinned frames.
        fps: frames per second.
    """
    if timeline.lengths is not None:
        return _plan_alike_levels(timeline, fps)
    last = timeline.num_frames - 1
    parts, known, levels = 1, 0, []
    counts: Sequence[int] = timeline.segments_per_level
    for level, (branches, runs) in enumerate(zip(timeline.branching, counts, strict=True)):
        parts *= branches
        frames = min(parts, last) + 1
        spacing = last / min(parts, last) if last else 0.0
        new_frames = frames - known
        # Below level 0 each run also holds its two given ends.
        held = new_frames + (2 * runs if level else 0)
        per_run = round(held / runs, 2)
        spacing = round(spacing, 3)
        levels.append(LevelPlan(level, runs, spacing, round(spacing / fps, 4), new_frames, per_run))
        known = frames
    return tuple(levels)


def _plan_alike_levels(timeline: Timeline, fps: float) -> tuple[LevelPlan, ...]:
    """Figures of levels whose runs are all alike; frames beyond the film's end are not counted."""
    known, levels = 0, []
    counts: Sequence[int] = timeline.segments_per_level
    for level, (branches, runs) in enumerate(zip(timeline.branching, counts, strict=True)):
        spacing = math.prod(timeline.branching[level + 1 :])
        frames = (timeline.num_frames - 1) // spacing + 1
        levels.append(
            LevelPlan(
                level, runs, spacing, round(spacing / fps, 4), frames - known, float(branches + 1)
            )
        )
        known = frames
    return tuple(levels)


def _show(result: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "level",
        "runs",
        "spacing (frames)",
        "spacing (s)",
        "new frames",
        "frames per run",
    ):
        table.add_column(name, justify="right")
    for level in result.levels:
        table.add_row(
            f"{level.level}{' (global)' if level.level == 0 else ''}",
            f"{level.runs:,}",
            f"{level.spacing_frames:,.4g}",
            f"{level.spacing_seconds:,.3g}",
            f"{level.new_frames:,}",
            f"{level.frames_per_run:.3g}",
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{spell_count(result.num_frames, 'frame')}, {spell_time(result.seconds)} at "
        f"{result.fps:g} fps"
        + (f", {spell_count(len(result.scenes), 'scene')}" if result.scenes else "")
    )
    console.print(table)
    console.print(
        f"{spell_count(result.runs, 'run')} of at most {result.segment_length} frames; "
        f"{result.frames_evaluated_per_frame:.3g} frames evaluated per frame; "
        f"critical path {spell_count(result.critical_path, 'run')}"
    )
    if result.seconds_per_run is None or result.expected_seconds is None:
        return
    console.print(
        f"about {spell_time(result.expected_seconds)} with "
        f"{spell_count(result.workers, 'worker')} at {result.seconds_per_run:g} s per full run"
    )


def spell_count(number: int, noun: str) -> str:
    """'1 run', '2,000 runs'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spell_time(seconds: float) -> str:
    """'7.5 s', '2 min 30 s', '3 h 5 min', '4 d 2 h': two units at most."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count:,} {name}" if count else "")
    return " ".join(part for part in parts[:2] if part)
