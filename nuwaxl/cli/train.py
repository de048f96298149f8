"""`nuwaxl train`: one stage of the training of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import INTERRUPTED, CommandError, user_errors
from nuwaxl.config import nearest, read_settings

STAGES = ("autoencoder", "prompts", "image", "global", "local")


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"One of {', '.join(STAGES)}.")],
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as those in configs/.")
    ],
    assignments: options.Assignments = None,
) -> None:
    """Train one stage; run it again to resume."""
    with user_errors():
        check_train(stage, config, assignments or [])
    from nuwaxl.training.main import train as run_stage

    try:
        run_stage(stage, config, assignments or [], on_log=show_row)
    except KeyboardInterrupt:
        raise CommandError("stopped; the same command resumes.", INTERRUPTED) from None


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
