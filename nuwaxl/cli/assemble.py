"""`nuwaxl assemble`: trained stages to one checkpoint."""

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.config import load_config, read_settings


def assemble(assignments: options.Assignments = None, config: options.Config = None) -> None:
    """Put trained stages together into one checkpoint."""
    with user_errors():
        if config is not None:
            read_settings(config)
    from nuwaxl.training.assemble import AssembleConfig
    from nuwaxl.training.assemble import assemble as put_together

    with user_errors():
        settings = load_config(AssembleConfig, config, assignments or [])
    put_together(settings)
    typer.echo(f"wrote {settings.output}")
