"""What a user did wrong, as one line."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from nuwaxl.config import nearest

USAGE = 2
"""Exit code: the arguments cannot be."""
FAILURE = 1
"""Exit code: the arguments are right, the run failed."""
INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C (128 + SIGINT)."""


class CommandError(Exception):
    """One line for the user and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = USAGE):
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


@contextmanager
def user_errors(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn what a check refuses into a `CommandError`.

    Args:
        options: setting -> option that set it, so that the line speaks of what the user typed.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        for setting, option in (options or {}).items():
            message = message.replace(f"`{setting}`", f"`{option}`")
        raise CommandError(message) from error


def usage_line(error: typer.TyperException) -> str:
    """What typer found wrong, as one line with the way out."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context else "nuwaxl"
    way_out = f"see `{path} --help`"
    option = getattr(error, "option_name", None)
    if option and type(error).__name__ == "NoSuchOption":
        known = [name for param in context.command.params for name in param.opts]
        found = nearest(option, [name for name in known if name.startswith("--")])
        return f"no such option `{option}`{found} For all options {way_out}."
    message = " ".join(error.format_message().split())
    command = re.match(r"No such command '([^']*)'", message)
    if command and context:
        found = nearest(command[1], list(context.command.commands))
        return f"no such command `{command[1]}`{found} For all commands {way_out}."
    return f"{message[:1].lower()}{message[1:].rstrip('.')}; {way_out}."
