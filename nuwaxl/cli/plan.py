"""`nuwaxl plan`: what a film costs, from its length alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.cli.request import FilmRequest, resolve_request
from nuwaxl.timeline import Timeline

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
    seconds_per_run: float
    expected_seconds: float
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
        float,
        typer.Option(
            parser=options.number, metavar="SECONDS", help="Time of one full run on your machine."
        ),
    ] = SECONDS_PER_RUN,
    workers: Annotated[
        int, typer.Option(parser=options.whole_number, metavar="N", help="Runs at the same time.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show levels, runs and expected time of a film, without making it."""
    values = {"length": length, "depth": depth, "fps": fps}
    with user_errors(options.option_names(values)):
        if workers < 1:
            raise ValueError(f"`--workers` must be 1 or more, got {workers}.")
        if not (math.isfinite(seconds_per_run) and seconds_per_run > 0):
            raise ValueError(f"`--seconds-per-run` must be above 0, got {seconds_per_run:g}.")
        request = resolve_request(
            prompts=prompt,
            story=story,
            config_file=config,
            assignments=assignments,
            overrides=options.overrides(values),
            needs_prompt=False,
            segment_length=segment_length,
        )
    result = plan_film(request, workers=workers, seconds_per_run=seconds_per_run)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        _show(result)


def plan_film(request: FilmRequest, *, workers: int, seconds_per_run: float) -> Plan:
    """Count runs and frames of `request`.

    The expected time takes level after level, each with all workers: runs of a level are
    independent, levels are not. A run of fewer frames is taken to need less time in proportion.

    Args:
        request: what is to be made.
        workers: runs at the same time.
        seconds_per_run: time of one run of full length.
    """
    timeline, fps = request.timeline, request.config.fps
    levels = plan_levels(timeline, fps)
    full_runs = sum(
        math.ceil(level.runs / workers) * level.frames_per_run / timeline.segment_length
        for level in levels
    )
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
        expected_seconds=round(full_runs * seconds_per_run, 1),
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
        f"{result.num_frames:,} frames, {spell_time(result.seconds)} at {result.fps:g} fps"
        + (f", {len(result.scenes)} scenes" if result.scenes else "")
    )
    console.print(table)
    console.print(
        f"{result.runs:,} runs of at most {result.segment_length} frames; "
        f"{result.frames_evaluated_per_frame:.3g} frames evaluated per frame; "
        f"critical path {result.critical_path} runs"
    )
    console.print(
        f"about {spell_time(result.expected_seconds)} with {result.workers} worker"
        f"{'s' if result.workers > 1 else ''} at {result.seconds_per_run:g} s per full run"
    )


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
