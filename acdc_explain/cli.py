"""The command line: results on standard output, progress on standard error."""

from __future__ import annotations

import os
import sys

import typer

from . import cli_installed, cli_label, cli_report, cli_run, cli_store
from .command import app
from .errors import UserError

__all__ = ["app", "cli_installed", "cli_label", "cli_report", "cli_run", "cli_store", "main"]

INTERRUPTED = 130  # what typer makes of Ctrl-C where a command has nothing more to say about it


def main() -> None:
    """The entry point: a user's mistake is one sentence and exit code 1, never a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"acdc-explain: {error}", err=True)
        sys.exit(1)
    except SystemExit as error:
        if error.code != INTERRUPTED:
            raise
        typer.echo("acdc-explain: Stopped.", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
