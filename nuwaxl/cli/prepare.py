"""`nuwaxl prepare`: a folder of videos to a dataset that `nuwaxl train` reads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import FAILURE, INTERRUPTED, CommandError, user_errors

if TYPE_CHECKING:
    from nuwaxl.preparation.report import Report
    from nuwaxl.preparation.settings import PrepareConfig
    from nuwaxl.preparation.shards import Caption

PICTURES = "What is kept"
CAPTIONS = "Captions"
RESUMES = "the same command goes on from there."


def prepare(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Videos of any kind, in subfolders too.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DATASET", help="Folder of the dataset."),
    ],
    size: Annotated[
        int,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="Height and width of the pictures.",
            rich_help_panel=PICTURES,
        ),
    ] = 128,
    fps: Annotated[
        float,
        typer.Option(
            parser=options.number,
            metavar="X",
            help="Pictures per second.",
            rich_help_panel=PICTURES,
        ),
    ] = 8.0,
    detector: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="PySceneDetect's, for shots: adaptive, content or none.",
            rich_help_panel=PICTURES,
        ),
    ] = "adaptive",
    shot_threshold: Annotated[
        float | None,
        typer.Option(
            parser=options.number,
            metavar="X",
            help="How large a change is a cut.",
            show_default="the detector's own",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    min_motion: Annotated[
        float,
        typer.Option(
            parser=options.number,
            metavar="X",
            help="Leave out shots in which less than this changes, of 255; 0 keeps all.",
            rich_help_panel=PICTURES,
        ),
    ] = 6.0,
    dedupe: Annotated[
        bool,
        typer.Option(help="Leave out shots that are in another video.", rich_help_panel=PICTURES),
    ] = True,
    image_format: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help="jpg, webp or png.", rich_help_panel=PICTURES
        ),
    ] = "jpg",
    quality: Annotated[
        int,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="Of jpg and webp, 1 to 100.",
            rich_help_panel=PICTURES,
        ),
    ] = 95,
    captioner: Annotated[
        str,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="A captioner of transformers, such as GIT or BLIP.",
            show_default="none",
            rich_help_panel=CAPTIONS,
        ),
    ] = "",
    caption_every: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="shot, frame, or a time such as 2s.",
            rich_help_panel=CAPTIONS,
        ),
    ] = "shot",
    sidecars: Annotated[
        bool,
        typer.Option(
            help="Take captions from NAME.json, .srt or .txt beside a video.",
            rich_help_panel=CAPTIONS,
        ),
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="Videos read at a time.",
            show_default="one for each core",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the report.")] = False,
) -> None:
    """Make a dataset out of a folder of videos; run it again to resume."""
    values = dict(locals())  # nothing but the arguments yet
    values["format"] = values.pop("image_format")
    with user_errors({name: "--" + name.replace("_", "-") for name in values}):
        if workers is not None and workers < 1:
            raise ValueError(f"`workers` must be at least 1, got {workers}.")
        from nuwaxl.preparation.settings import PrepareConfig

        settings = PrepareConfig.__dataclass_fields__.keys() & values.keys()
        config = PrepareConfig(**{name: values[name] for name in settings})
        check_folders(folder, output, config)
        caption = load_captioner(captioner) if captioner else None
    report = run(folder, output, config, workers or count_cores(), caption, quiet)
    typer.echo(str(report), nl=False)
    typer.echo(f"{output}: manifest.jsonl, shards/, report.txt")
    if any(failure.disk_is_full for failure in report.failures):
        raise CommandError(f"the disk is full; make room, and {RESUMES}", FAILURE)
    if not report.kept:
        raise CommandError("nothing is left of these videos; see the report.", FAILURE)


def check_folders(folder: Path, output: Path, config: "PrepareConfig") -> None:
    """Refuse what is wrong before a captioner is loaded.

    Args:
        folder: of the videos.
        output: of the dataset.
        config: what it is to hold.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    try:
        import scenedetect  # noqa: F401
    except ImportError:
        raise ValueError(
            "`nuwaxl prepare` needs PySceneDetect: pip install 'nuwaxl[prepare]'."
        ) from None
    from nuwaxl.preparation.prepare import check_output, find_videos

    find_videos(folder, leave_out=output)
    check_output(folder, output, config)


def load_captioner(name: str) -> "Caption":
    """The captioner of a folder or of the hub.

    Args:
        name: which.

    Raises:
        ValueError: there is none.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"`captioner` must be a folder with a config.json, got {name!r}.")
    import transformers

    from nuwaxl.preparation.captioner import Captioner

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return Captioner(name)


def run(
    folder: Path,
    output: Path,
    config: "PrepareConfig",
    workers: int,
    caption: "Caption | None",
    quiet: bool,
) -> "Report":
    """Prepare; what ends it early becomes one line.

    Args:
        folder: of the videos.
        output: of the dataset.
        config: what it is to hold.
        workers: processes.
        caption: the captioner.
        quiet: say nothing of single videos.
    """
    from nuwaxl.preparation.prepare import prepare as prepare_folder
    from nuwaxl.stores.folder_lock import FolderInUseError

    def show(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    try:
        return prepare_folder(
            folder, output, config, workers=workers, caption=caption, on_line=show
        )
    except KeyboardInterrupt:
        raise CommandError(f"stopped; {RESUMES}", INTERRUPTED) from None
    except FolderInUseError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CommandError(
            f"'{output}' cannot be written: {(error.strerror or str(error)).lower()}{where}; "
            f"{RESUMES}",
            FAILURE,
        ) from error


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
