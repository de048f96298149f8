"""`nuwaxl train`: one stage of the training of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import INTERRUPTED, CommandError, user_errors
from nuwaxl.config import nearest, read_settings

STAGES = ("autoencoder", "prompts", "image", "global", "scenery", "mover", "estimator", "local")


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(STAGES)}.")],
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as those in configs/.")
    ],
    assignments: options.Assignments = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what memory and work it needs, and stop."),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            parser=options.whole_number,
            metavar="N",
            help="Of --dry-run: how many train together.",
            show_default="1",
        ),
    ] = None,
) -> None:
    """Train one stage; run it again to resume."""
    with user_errors():
        check_train(stage, config, assignments or [])
        if processes is not None and not dry_run:
            raise ValueError(
                "`--processes` is for `--dry-run`; to train, `torchrun --nproc-per-node N` starts"
                " them."
            )
        if processes is not None and processes < 1:
            raise ValueError(f"`--processes` must be 1 or more, got {processes}.")
    if dry_run:
        show_estimate(stage, config, assignments or [], processes or 1)
        return
    from nuwaxl.training.main import train as run_stage

    try:
        run_stage(stage, config, assignments or [], on_log=show_row)
    except KeyboardInterrupt:
        raise CommandError("stopped; the same command resumes.", INTERRUPTED) from None


def show_estimate(stage: str, config: Path, assignments: list[str], processes: int) -> None:
    """Print memory, work and speed of a stage; nothing is read but settings.

    Args:
        stage: its name.
        config: the YAML file.
        assignments: `key=value`.
        processes: that train together.
    """
    from nuwaxl.tensors.devices import best_device
    from nuwaxl.training.estimate import estimate, matmul_rate, spell
    from nuwaxl.training.main import read_training
    from nuwaxl.training.shapes import step_of

    settings = read_training(stage, config, assignments)
    needed = estimate(step_of(settings), settings.loop, processes)
    rate = matmul_rate(settings.loop.mixed_precision, best_device())
    for line in spell(needed, settings.loop, rate):
        typer.echo(line)


def show_row(row: Mapping[str, float]) -> None:
    """Print one row of the training curves: 'step 20  loss 0.412'."""
    typer.echo("  ".join(f"{name} {value:.6g}" for name, value in row.items()))


def check_train(stage: str, config: Path, assignments: list[str]) -> None:
    """Refuse an unknown stage, a settings file that cannot be read, and what is not key=value.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    if stage not in STAGES:
        raise ValueError(
            f"STAGE must be one of {', '.join(STAGES)}, got {stage!r}{nearest(stage, STAGES)}"
        )
    read_settings(config)
    for entry in assignments:
        if "=" not in entry:
            raise ValueError(f"expected key=value such as loop.max_steps=100, got {entry!r}.")
