"""All commands, and how their errors are shown."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import nuwaxl
from nuwaxl.cli.assemble import assemble
from nuwaxl.cli.errors import INTERRUPTED, CommandError, usage_line
from nuwaxl.cli.evaluate import evaluate
from nuwaxl.cli.finish import finish
from nuwaxl.cli.generate import generate
from nuwaxl.cli.init import init
from nuwaxl.cli.plan import plan
from nuwaxl.cli.prepare import prepare
from nuwaxl.cli.project import edit, extend, log, pin, reroll, undo
from nuwaxl.cli.train import train
from nuwaxl.cli.views import clip, preview
from nuwaxl.config import ConfigError

app = typer.Typer(
    name="nuwaxl",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"nuwaxl {nuwaxl.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _nuwaxl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Long films from text by diffusion over diffusion."""


app.command()(generate)
app.command()(finish)
app.command()(plan)
app.command()(preview)
app.command()(clip)
app.command()(edit)
app.command()(reroll)
app.command()(pin)
app.command()(extend)
app.command()(log)
app.command()(undo)
app.command()(prepare)
app.command()(init)
app.command()(train)
app.command()(assemble)
app.command()(evaluate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one line on stderr.

    Args:
        argv: arguments without the program's name; None: those of the process.
    """
    _let_other_processes_run()
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = typer.main.get_command(app)(arguments, prog_name="nuwaxl", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped.", INTERRUPTED)
    except typer.TyperException as error:
        return _fail(usage_line(error), 2)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except ConfigError as error:
        return _fail(str(error), 2)
    if code == INTERRUPTED:
        return _fail("stopped.", INTERRUPTED)
    return code or 0


def _let_other_processes_run() -> None:
    """Have threads of OpenMP that wait for each other sleep soon; read when torch is loaded.

    As they come, they spin so long that a film of two cores took 206 s instead of 12 beside a
    process that kept one of them busy. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _fail(line: str, exit_code: int) -> int:
    kind = "" if exit_code == INTERRUPTED else "error: "
    typer.echo(f"nuwaxl: {kind}{line}", err=True)
    return exit_code
