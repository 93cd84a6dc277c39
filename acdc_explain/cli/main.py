"""The command line: results on standard output, progress on standard error."""

from __future__ import annotations

import os
import sys

from ..errors import UserError, WrongUsage, for_command_line
from ..output.text import flush, say, standard_streams
from . import (
    bench,
    installed,
    label,
    report,
    run,
    search,
    store,
)  # each adds its commands to the app
from .app import app

__all__ = ["app", "bench", "installed", "label", "main", "report", "run", "search", "store"]

INTERRUPTED = 130  # the exit code that typer gives Ctrl-C where no command handles it


def main() -> None:
    """The entry point. A user's mistake is printed as one sentence, never as a traceback."""
    try:
        with standard_streams():
            try:
                app()
            finally:
                flush()
    except UserError as error:
        say(f"acdc-explain: {for_command_line(error)}", err=True)
        sys.exit(2 if isinstance(error, WrongUsage) else 1)
    except SystemExit as error:
        if error.code != INTERRUPTED:
            raise
        say("acdc-explain: Stopped.", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
