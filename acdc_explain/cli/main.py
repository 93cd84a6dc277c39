"""The command line: results on standard output, progress on standard error."""

from __future__ import annotations

import os
import sys

from ..errors import UserError, WrongUsage, for_command_line
from ..output.text import flush, say, standard_streams
from . import (
    installed as cli_installed,
)
from . import (
    label as cli_label,
)
from . import (
    report as cli_report,
)
from . import (
    run as cli_run,
)
from . import (
    store as cli_store,
)
from .app import app

__all__ = ["app", "cli_installed", "cli_label", "cli_report", "cli_run", "cli_store", "main"]

INTERRUPTED = 130  # what typer makes of Ctrl-C where a command has nothing more to say about it


def main() -> None:
    """The entry point: a user's mistake is one sentence, never a traceback."""
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
