"""`nuwaxl generate`: check everything, then make the film and write it frame by frame."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nuwaxl
from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.plan import spell_time
from nuwaxl.cli.request import FilmRequest, check_bundled, check_sheet, check_size, resolve_request

if TYPE_CHECKING:
    import numpy as np

    from nuwaxl.pipeline import LongVideoPipeline

BUNDLED_WORLD = Path(nuwaxl.__file__).parent / "weights" / "toon" / "world.json"
"""Which actors and backgrounds the bundled checkpoint was trained on."""

SHEET_FRAMES = 24
SHEET_COLUMNS = 6


@dataclass(frozen=True)
class Show:
    """What the user wants to see while the film is made."""

    quiet: bool

    @property
    def progress(self) -> bool:
        """Whether to draw a progress bar: only where somebody looks."""
        return not self.quiet and sys.stderr.isatty()


def generate(
    assignments: options.Assignments = None,
    prompt: options.Prompts = None,
    story: options.Story = None,
    length: options.Length = None,
    depth: options.Depth = None,
    fps: options.Fps = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number, metavar="N", help="One seed, one film.", show_default="0"
        ),
    ] = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    local_steps: options.LocalSteps = None,
    local_guidance_scale: options.LocalGuidanceScale = None,
    negative_prompt: options.NegativePrompt = None,
    scheduler: options.Scheduler = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    output: options.Output = None,
    contact_sheet: options.ContactSheet = None,
    config: options.Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Make even a very long film.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a film of any length from one or more prompts."""
    values = dict(locals())  # nothing but the arguments yet
    with user_errors(options.option_names(values)):
        request = resolve_request(
            prompts=prompt,
            story=story,
            config_file=config,
            assignments=assignments,
            overrides=options.overrides(values),
        )
        check_all(request, overwrite=overwrite, confirmed=yes)
    make_film(request, Show(quiet), overwrite=overwrite)


def check_all(request: FilmRequest, *, overwrite: bool, confirmed: bool) -> None:
    """Refuse what could not be made or written, before anything is loaded.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    from nuwaxl.video import check_output

    check_size(request, confirmed=confirmed)
    try:
        check_output(request.config.output, overwrite=overwrite, fps=request.config.fps)
    except FileExistsError as error:
        raise ValueError(str(error).replace("ask to overwrite it", "add `--overwrite`")) from error
    if request.config.contact_sheet is not None:
        check_sheet(Path(request.config.contact_sheet), overwrite=overwrite)
    check_bundled(request.config.model)


def make_film(request: FilmRequest, show: Show, *, overwrite: bool) -> None:
    """Load the model, stream the film to its file, write the contact sheet.

    Raises:
        CommandError: the run failed or was stopped; no file has the final name then.
    """
    started = time.monotonic()
    if request.config.model is None and not show.quiet:
        _note_unknown_words(request)
    try:
        pipeline = _load(request)
        sheet = _write(
            request, _with_progress(_stream(request, pipeline), request, show), overwrite
        )
        if request.config.contact_sheet is not None:
            _write_sheet(request, sheet)
    except KeyboardInterrupt:
        raise CommandError(
            f"stopped; {request.config.output} was not written.", INTERRUPTED
        ) from None
    except OSError as error:
        raise CommandError(f"{request.config.output} was not written: {error}.", FAILURE) from error
    if not show.quiet:
        taken = time.monotonic() - started
        typer.echo(
            f"{request.config.output}: {request.num_frames:,} frames, "
            f"{spell_time(request.duration)} at {request.config.fps:g} fps, from "
            f"{request.timeline.num_segments:,} runs in {spell_time(taken)}"
        )


def _note_unknown_words(request: FilmRequest) -> None:
    from nuwaxl.toon.captions import unknown_words

    assert request.storyline is not None
    # What the checkpoint was trained on; the captions of the rest of the world are news to it.
    taught = json.loads(BUNDLED_WORLD.read_text()) if BUNDLED_WORLD.is_file() else {}
    parts = [tuple(taught[key]) if key in taught else None for key in ("actors", "backgrounds")]
    words = dict.fromkeys(
        word for scene in request.storyline.scenes for word in unknown_words(scene.prompt, *parts)
    )
    if words:
        typer.echo(
            f"nuwaxl: note: the bundled model was not taught {', '.join(words)}; it may show "
            "something else there.",
            err=True,
        )


def _load(request: FilmRequest) -> "LongVideoPipeline":
    import diffusers
    import torch
    import transformers

    from nuwaxl.devices import best_device
    from nuwaxl.pipeline import LongVideoPipeline

    config = request.config
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    pipeline = LongVideoPipeline.from_pretrained(config.model, dtype=dtype)
    try:
        pipeline.to(best_device() if config.device == "auto" else config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"`--device` {config.device} cannot be used here: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stream(request: FilmRequest, pipeline: "LongVideoPipeline") -> Iterator["np.ndarray"]:
    config = request.config
    assert request.storyline is not None, "`resolve_request` asks for a prompt"
    with user_errors():
        return pipeline.stream(
            request.storyline,
            num_frames=request.num_frames,
            fps=config.fps,
            depth=config.depth,
            sampling=config.sampling,
            seed=config.seed,
            batch_size=config.batch_size,
        )


def _with_progress(
    frames: Iterator["np.ndarray"], request: FilmRequest, show: Show
) -> Iterator["np.ndarray"]:
    """Pass frames on, with a bar on stderr: frames done and time left."""
    if not show.progress:
        yield from frames
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Frames come in bursts, a segment at a time: average over half a minute at least.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60.0) as progress:
        task = progress.add_task("frames", total=request.num_frames)
        for frame in frames:
            yield frame
            progress.advance(task)


def _write(
    request: FilmRequest, frames: Iterator["np.ndarray"], overwrite: bool
) -> "list[tuple[int, np.ndarray]]":
    """Write the film; keep evenly spaced frames for the contact sheet."""
    from nuwaxl.video import VideoWriter

    kept = _sheet_indices(request.num_frames) if request.config.contact_sheet else set()
    sheet = []
    with VideoWriter(request.config.output, request.config.fps, overwrite=overwrite) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame)
            if index in kept:
                sheet.append((index, frame))
    return sheet


def _sheet_indices(num_frames: int) -> set[int]:
    count = min(SHEET_FRAMES, num_frames)
    return {round(i * (num_frames - 1) / max(1, count - 1)) for i in range(count)}


def _write_sheet(request: FilmRequest, sheet: "list[tuple[int, np.ndarray]]") -> None:
    from nuwaxl.video import contact_sheet

    assert request.config.contact_sheet is not None
    path = Path(request.config.contact_sheet)
    labels = [spell_time(index / request.config.fps) for index, _ in sheet]
    picture: Any = contact_sheet(
        [frame for _, frame in sheet], columns=min(SHEET_COLUMNS, len(sheet)), labels=labels
    )
    hidden = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        picture.save(hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
