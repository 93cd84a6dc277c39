"""Prompt templates: jinja2 in its sandbox, where a misspelt variable is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..ids import content_id
from . import render_process

SECONDS = 10.0  # to render one prompt
CHARACTERS = 1_000_000  # of a prompt: more than any LLM reads
SUFFIX = ".j2"


class Templates:
    """Templates by name, from several folders; the first folder that has one wins.

    They are rendered in a process of their own, bounded in memory, time and size.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = [str(Path(folder).resolve()) for folder in folders]
        self._environment = render_process.environment_of(self._folders)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stop: weakref.finalize[Any, Any] | None = None

    def render(self, name: str, /, **variables: Any) -> str:
        """`variables` are what JSON can hold.

        Raises UserError for a template that is not there, has a mistake or finds no end.
        """
        file = f"{name}{SUFFIX}"
        request = {
            "name": file,
            "variables": variables,
            "seconds": SECONDS,
            "characters": CHARACTERS,
        }
        answer = self._answer(json.dumps(request))
        if answer is None:
            raise UserError(
                f"The template {file}: it takes longer than {SECONDS:g} s or needs too much "
                "memory; fix it."
            )
        if "text" not in answer:
            raise UserError(f"The template {answer['where']}: {answer['problem']}; fix it.")
        return str(answer["text"])

    def _answer(self, request: str) -> dict[str, Any] | None:
        """From the process; None if it had to be killed, or was."""
        with self._turn:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            clock = threading.Timer(SECONDS + 2, process.kill)
            clock.start()
            try:
                process.stdin.write(f"{request}\n")
                process.stdin.flush()
                line = process.stdout.readline()
                found: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
            except OSError:
                found = None
            except BaseException:  # Ctrl-C: the answer would be taken for that to the next request
                self._end()
                raise
            finally:
                clock.cancel()
            if found is None:
                self._end()
            return found

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, sys.path))  # it finds jinja2 where this process does
        self._process = subprocess.Popen(
            [sys.executable, "-P", render_process.__file__, *self._folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        self._stop = weakref.finalize(self, _stop, self._process)
        return self._process

    def _end(self) -> None:
        if self._stop is not None:
            self._stop()
        self._process = self._stop = None

    @property
    def digest(self) -> str:
        """Of all templates, so that a changed prompt is a changed run. Raises UserError."""
        return content_id("templates", {name: self._source(name) for name in self._names})

    @property
    def _names(self) -> list[str]:
        """Files that are no templates, hidden ones and those in hidden folders do not count."""
        return self._environment.list_templates(
            filter_func=lambda name: name.endswith(SUFFIX) and "/." not in f"/{name}"
        )

    def _source(self, name: str) -> str:
        loader = self._environment.loader
        assert loader is not None
        try:
            return loader.get_source(self._environment, name)[0]
        except UnicodeDecodeError as error:
            raise UserError(
                f"The template {name} is no text in UTF-8 ({error.reason}); fix it or take it "
                "out of the folder."
            ) from error
        except Exception as error:  # jinja2's, the system's: a file that cannot be read
            raise UserError(
                f"The template {name} cannot be read ({type(error).__name__}); fix it or take it "
                "out of the folder."
            ) from error


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
