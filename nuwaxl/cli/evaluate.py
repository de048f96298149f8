"""`nuwaxl evaluate`: films of known stories, measured, beside real renders and baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors
from nuwaxl.cli.generate import BUNDLED_WORLD

if TYPE_CHECKING:
    from nuwaxl.evaluation.evaluate import Evaluation, OnFilm
    from nuwaxl.evaluation.features import Readers
    from nuwaxl.evaluation.scoring import Score
    from nuwaxl.evaluation.settings import EvaluationConfig
    from nuwaxl.models.autoencoder import TemporalAutoencoderKL
    from nuwaxl.pipelines.long_video import LongVideoPipeline

SETTINGS = {
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "local_steps": "local_num_inference_steps",
    "local_guidance_scale": "local_guidance_scale",
    "scheduler": "scheduler",
}
"""Option -> setting of `SamplingConfig`."""

LISTS = ("lengths", "rows", "features", "actors", "backgrounds")
"""Options that hold several values with commas between them."""


def evaluate(
    assignments: options.Assignments = None,
    model: options.Model = None,
    vae: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="An autoencoder instead of the model's own."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The network that reads frames; trained there in minutes if it is not there.",
            show_default="out/probe",
        ),
    ] = None,
    stories: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="Films of every length in every row.",
            show_default="3",
        ),
    ] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="N,N", help="In frames.", show_default="226,1024")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Of real, autoencoder, local, tree, sequential, hierarchy.",
            show_default="real,autoencoder,local,tree,sequential",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Networks in whose features distances are taken: probe, efficientnet.",
            show_default="probe,efficientnet",
        ),
    ] = None,
    inception: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of FID's Inception: inception-2015-12-05.pt, or torch-fidelity's.",
            show_default="no FID",
        ),
    ] = None,
    video_network: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="i3d_torchscript.pt, or folder or hub id of a VideoMAE.",
            show_default="no FVD",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Folder or hub id of a CLIP.", show_default="no CLIP score"
        ),
    ] = None,
    actors: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Only these.", show_default="those of the model"),
    ] = None,
    backgrounds: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Only these.", show_default="those of the model"),
    ] = None,
    held_out: Annotated[
        bool | None,
        typer.Option("--held-out", help="Only what no network is trained on.", show_default=False),
    ] = None,
    paraphrase: Annotated[
        bool | None,
        typer.Option("--paraphrase", help="Prompts in many words.", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="For report.json and report.html.",
            show_default="out/evaluation",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="One seed, one set of stories and films.",
            show_default="0",
        ),
    ] = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    local_steps: options.LocalSteps = None,
    local_guidance_scale: options.LocalGuidanceScale = None,
    scheduler: options.Scheduler = None,
    batch_size: options.BatchSize = None,
    config: options.Config = None,
) -> None:
    """Measure a model on stories whose every frame is known."""
    values = dict(locals())  # nothing but the arguments yet
    given = [name for name, value in values.items() if value is not None]
    names = {name: "--" + name.replace("_", "-") for name in given}
    with user_errors(names | options.option_names(values)):
        settings = read_config(values)
        readers, pipeline, autoencoder = load_networks(settings)
    try:
        done = run(settings, readers, pipeline, autoencoder)
    except KeyboardInterrupt:
        raise CommandError("stopped; no report was written.", INTERRUPTED) from None
    except (ValueError, OSError) as error:
        raise CommandError(str(error), FAILURE) from error
    show(done)


def read_config(values: dict[str, Any]) -> "EvaluationConfig":
    """Settings of the file, of KEY=VALUE and of the options, and the model's own world.

    Args:
        values: option -> value; None where it was not given.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    import dataclasses

    from nuwaxl.config import load_config
    from nuwaxl.evaluation.settings import EvaluationConfig, check_sources, read_world

    own = {field.name for field in dataclasses.fields(EvaluationConfig)}
    given = {name: value for name, value in values.items() if value is not None}
    overrides: dict[str, Any] = {name: given[name] for name in own & given.keys()}
    for name in set(LISTS) & overrides.keys():
        overrides[name] = [part.strip() for part in overrides[name].split(",") if part.strip()]
    if "lengths" in overrides:
        try:
            overrides["lengths"] = [int(part) for part in overrides["lengths"]]
        except ValueError:
            raise ValueError(
                f"`lengths` must be numbers of frames such as 226,1024, got {given['lengths']!r}."
            ) from None
    sampling = {SETTINGS[name]: given[name] for name in SETTINGS.keys() & given.keys()}
    if sampling:
        overrides["sampling"] = sampling
    config = load_config(
        EvaluationConfig, values["config"], values["assignments"] or [], overrides=overrides
    )
    has_model = config.needs_model or config.model is not None
    if has_model and not (config.actors or config.backgrounds):
        folder = BUNDLED_WORLD.parent if config.model is None else Path(config.model)
        actors, backgrounds = read_world(folder)
        config = dataclasses.replace(config, actors=actors, backgrounds=backgrounds)
    check_sources(config)
    return config


def quiet() -> None:
    """No word from the libraries: what goes wrong is said in one line of ours."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load_networks(
    config: "EvaluationConfig",
) -> tuple["Readers", "LongVideoPipeline | None", "TemporalAutoencoderKL | None"]:
    """The networks that look at the films, the model and the autoencoder that the rows need.

    Args:
        config: which.

    Raises:
        ValueError: a file or folder holds something else, or a package is missing.
    """
    from nuwaxl.evaluation.features import load_readers
    from nuwaxl.tensors.devices import best_device

    quiet()
    readers = load_readers(config, best_device())
    pipeline = autoencoder = None
    if config.needs_model:
        from nuwaxl.pipelines.long_video import LongVideoPipeline

        pipeline = LongVideoPipeline.from_pretrained(config.model).to(best_device())
        pipeline.set_progress_bar_config(disable=True)
    if config.vae is not None:
        from nuwaxl.models.autoencoder import TemporalAutoencoderKL

        autoencoder = TemporalAutoencoderKL.from_pretrained(config.vae).eval()
    return readers, pipeline, autoencoder


def run(
    config: "EvaluationConfig",
    readers: "Readers",
    pipeline: "LongVideoPipeline | None",
    autoencoder: "TemporalAutoencoderKL | None",
) -> "Evaluation":
    """Get the probe ready, measure, and write the report.

    Args:
        config: what to measure.
        readers: networks that look at the films.
        pipeline: of generated rows.
        autoencoder: instead of the pipeline's.
    """
    import dataclasses

    from nuwaxl.cli.train import show_row
    from nuwaxl.evaluation.evaluate import evaluate as measure
    from nuwaxl.evaluation.probe import Probe
    from nuwaxl.evaluation.report import write_report

    vae = autoencoder or (None if pipeline is None else pipeline.vae)
    if not Path(config.probe).exists():
        from nuwaxl.evaluation.probe_training import train_probe

        typer.echo(f"{config.probe} is not there: training the probe takes minutes.", err=True)
        train_probe(config.probe, vae=vae, on_row=show_row)
        readers = dataclasses.replace(readers, probe=Probe.load(config.probe))
    facts = Probe.facts(config.probe)
    if isinstance(facts.get("accuracy"), dict):
        from nuwaxl.evaluation.table import probe_line

        typer.echo(probe_line(facts["accuracy"]))  # pyright: ignore[reportArgumentType]
    evaluation = measure(
        config,
        readers,
        probe_facts=facts,
        pipeline=pipeline,
        vae=vae,
        on_row=show_score,
        on_film=progress(config),
    )
    write_report(evaluation, config.output)
    return evaluation


def progress(config: "EvaluationConfig") -> "OnFilm":
    """What says which film begins, and which share of all frames lies behind.

    Args:
        config: which films there will be.
    """
    total = sum(config.lengths) * config.stories * (len(config.rows) + 1)
    done = 0

    def begins(row: str, num_frames: int, number: int) -> None:
        nonlocal done
        typer.echo(
            f"{100 * done // total:3d} %  {row}, {num_frames} frames, film {number + 1} of"
            f" {config.stories}",
            err=True,
        )
        done += num_frames

    return begins


def show_score(row: str, num_frames: int, score: "Score") -> None:
    """Say that a row is finished, as soon as it is."""
    accuracy = score.accuracy["all"]
    right = "" if accuracy is None else f"  right {accuracy:.1%}"
    typer.echo(
        f"{row}, {num_frames} frames: Avg-FD {score.distances['probe'].avg_fd:.2f}{right}"
        f"  {score.effort.seconds_per_frame:.3f} s/frame",
        err=True,
    )


def show(evaluation: "Evaluation") -> None:
    """Print the table, and where the report is."""
    from rich.console import Console

    from nuwaxl.evaluation.table import terminal_tables

    for grid in terminal_tables(evaluation):
        Console().print(grid)
    typer.echo(f"{evaluation.config.output}: report.json, report.html")
