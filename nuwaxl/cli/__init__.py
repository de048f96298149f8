"""The command line: parse, show, exit codes. Loads no network before all arguments are right."""

from nuwaxl.cli.app import main

__all__ = ["main"]
