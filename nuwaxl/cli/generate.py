"""`nuwaxl generate`: check everything, then make the film and write it frame by frame."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nuwaxl
from nuwaxl.cli import finishing as panel
from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.executors import executor_factory
from nuwaxl.cli.finishing import Finishing, write_finished
from nuwaxl.cli.lora import check_lora
from nuwaxl.cli.making import Show, load_pipeline, with_progress, write_picture
from nuwaxl.cli.plan import spell_count, spell_time
from nuwaxl.cli.producing import Running
from nuwaxl.cli.project_film import is_default_output, make_project, tells_a_film
from nuwaxl.cli.request import FilmRequest, check_bundled, check_sheet, check_size, resolve_request
from nuwaxl.config import GenerateConfig, load_config
from nuwaxl.projects.project import Project

if TYPE_CHECKING:
    import numpy as np

    from nuwaxl.pipelines.backend import BackendPipeline
    from nuwaxl.pipelines.long_video import LongVideoPipeline

_NAMED = 12
"""Words named in a note at most."""
BUNDLED_WORLD = Path(nuwaxl.__file__).parent / "weights" / "toon" / "world.json"
"""Which actors and backgrounds the bundled checkpoint was trained on."""

SHEET_FRAMES = 24
SHEET_COLUMNS = 6


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
    lora: options.Lora = None,
    checkpoint: options.Checkpoint = None,
    global_model: options.GlobalModel = None,
    local_model: options.LocalModel = None,
    size: options.Size = None,
    segment_length: options.SegmentLength = None,
    quantize: options.Quantize = None,
    offload: options.Offload = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    output: options.Output = None,
    contact_sheet: options.ContactSheet = None,
    config: options.Config = None,
    project: options.Project = None,
    store: options.Store = None,
    max_level: options.MaxLevel = None,
    executor: options.Executor = "local",
    workers: options.Workers = 1,
    interpolate: panel.Interpolate = None,
    deflicker: panel.Deflicker = None,
    upscale: panel.Upscale = None,
    upscaler: panel.Upscaler = None,
    subtitles: panel.Subtitles = False,
    burn_captions: panel.BurnCaptions = False,
    font: panel.Font = None,
    audio: panel.Audio = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Make even a very long film.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a film of any length from one or more prompts."""
    values = dict(locals())  # nothing but the arguments yet
    with user_errors(options.option_names(values)):
        factory = executor_factory(executor, workers, batch_size)
        finishing = Finishing.of(values)
        options.check_project(project, store, max_level)
        if max_level is not None and interpolate is not None:
            raise ValueError("give either `--max-level` or `--interpolate`, not both.")
        folder = None if project is None else Project(project, segments=store)
        goes_on = folder is not None and not folder.is_new
        if goes_on and not tells_a_film(values, options.SETTINGS):
            request = None
            settings = load_config(GenerateConfig, overrides=options.overrides(values))
            check_files(settings, overwrite=True)
            finishing.check(settings.output, fps=settings.fps)
        else:
            request = resolve_request(
                prompts=prompt,
                story=story,
                config_file=config,
                assignments=assignments,
                overrides=options.overrides(values),
            )
            settings = request.config
            # A folder's film is its own to replace, wherever it was said to go.
            own = folder is not None and (goes_on or is_default_output(settings))
            check_size(request, confirmed=yes)
            check_files(settings, overwrite=overwrite or own)
            finishing.check(settings.output, fps=settings.fps, overwrite=overwrite or own)
            check_bundled(settings.model, request.backends)
            check_lora(settings.lora, pretrained=request.backends is not None)
    running = Running(
        settings.device,
        settings.dtype,
        settings.batch_size,
        quiet,
        factory,
        max_level,
        settings.offload,
        finishing,
    )
    if folder is None:
        assert request is not None
        make_film(request, running, overwrite=overwrite)
    else:
        make_project_film(folder, request, settings, running)


def make_project_film(
    folder: Project, request: FilmRequest | None, settings: GenerateConfig, running: Running
) -> None:
    """Begin or go on with a film in its folder, and write the contact sheet.

    Raises:
        CommandError: it broke off; what was run is kept in the folder.
    """
    told = request is not None and request.is_bundled and not request.config.lora
    if request is not None and told and not running.quiet:
        _note_unknown_words(request)
    with user_errors():
        if not is_default_output(settings):
            folder = Project(folder.folder, segments=folder.segments, output=settings.output)
        num_frames = request.num_frames if request else folder.current.state.frames_now
        num_frames = running.finishing.num_frames(num_frames)
    kept = frozenset(_sheet_indices(num_frames)) if settings.contact_sheet else frozenset()
    state, sheet = make_project(folder, request, running, keep=kept)
    if settings.contact_sheet is not None:
        _write_sheet(settings.contact_sheet, running.finishing.fps(state.fps), sheet)


def check_files(config: GenerateConfig, *, overwrite: bool) -> None:
    """Refuse what could not be written, before anything is loaded.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    from nuwaxl.video import check_output

    try:
        check_output(config.output, overwrite=overwrite, fps=config.fps)
    except FileExistsError as error:
        raise ValueError(str(error).replace("ask to overwrite it", "add `--overwrite`")) from error
    if config.contact_sheet is not None:
        check_sheet(Path(config.contact_sheet), overwrite=overwrite)


def make_film(request: FilmRequest, running: Running, *, overwrite: bool) -> None:
    """Load the model, stream the film to its file, write the contact sheet.

    Raises:
        CommandError: the run failed or was stopped; no file has the final name then.
    """
    started = time.monotonic()
    config, finishing = request.config, running.finishing
    num_frames, fps = finishing.num_frames(request.num_frames), finishing.fps(config.fps)
    if request.is_bundled and not config.lora and not running.quiet:
        _note_unknown_words(request)
    try:
        pipeline = load_pipeline(config)
        sheet = write_finished(
            config.output,
            fps,
            with_progress(_stream(request, pipeline, running), num_frames, Show(running.quiet)),
            finishing,
            request.storyline,
            overwrite=overwrite,
            device=config.device,
            dtype=config.dtype,
            keep=_sheet_indices(num_frames) if config.contact_sheet else (),
        )
        if config.contact_sheet is not None:
            _write_sheet(config.contact_sheet, fps, sheet)
    except KeyboardInterrupt:
        raise CommandError(
            f"stopped; {request.config.output} was not written.", INTERRUPTED
        ) from None
    except OSError as error:
        raise CommandError(f"{request.config.output} was not written: {error}.", FAILURE) from error
    except RuntimeError as error:
        from nuwaxl.executors.local import SegmentTooLargeError, WorkerLostError

        if not isinstance(error, SegmentTooLargeError | WorkerLostError):
            raise
        raise CommandError(f"{request.config.output} was not written: {error}", FAILURE) from error
    if not running.quiet:
        taken = time.monotonic() - started
        typer.echo(
            f"{request.config.output}: {spell_count(num_frames, 'frame')}, "
            f"{spell_time(request.duration)} at {fps:g} fps, from "
            f"{spell_count(request.timeline.num_segments, 'run')} in {spell_time(taken)}"
        )


def _note_unknown_words(request: FilmRequest) -> None:
    """One line on what the prompts name and the bundled model was not taught."""
    import transformers

    from nuwaxl.denoising.prompt_reader import PromptReader

    assert request.storyline is not None
    if not BUNDLED_WORLD.is_file():
        return
    transformers.utils.logging.disable_progress_bar()
    # What the checkpoint was trained on; the captions of the rest of the world are news to it.
    taught = json.loads(BUNDLED_WORLD.read_text())
    found = PromptReader.from_pretrained(BUNDLED_WORLD.parent).untaught(
        [scene.prompt for scene in request.storyline.scenes],
        tuple(taught["actors"]),
        tuple(taught["backgrounds"]),
    )
    named = [str(thing) for thing in found[:_NAMED]]
    if len(found) > _NAMED:
        named.append(f"{len(found) - _NAMED} more")
    if named:
        typer.echo(
            f"nuwaxl: note: the bundled model was not taught {', '.join(named)}; it may show "
            "something else there.",
            err=True,
        )


def _stream(
    request: FilmRequest, pipeline: "LongVideoPipeline | BackendPipeline", running: Running
) -> Iterator["np.ndarray"]:
    config = request.config
    assert request.storyline is not None, "`resolve_request` asks for a prompt"
    with user_errors():
        film = pipeline.film(
            request.storyline,
            num_frames=request.num_frames,
            fps=config.fps,
            depth=config.depth,
            sampling=config.sampling,
            seed=config.seed,
            batch_size=config.batch_size,
            executor=running.executor,
        )
    with film:
        yield from running.frames(film)


def _sheet_indices(num_frames: int) -> set[int]:
    count = min(SHEET_FRAMES, num_frames)
    return {round(i * (num_frames - 1) / max(1, count - 1)) for i in range(count)}


def _write_sheet(file: str, fps: float, sheet: "list[tuple[int, np.ndarray]]") -> None:
    from nuwaxl.video import contact_sheet

    labels = [spell_time(index / fps) for index, _ in sheet]
    picture: Any = contact_sheet(
        [frame for _, frame in sheet], columns=min(SHEET_COLUMNS, len(sheet)), labels=labels
    )
    write_picture(picture, Path(file))
