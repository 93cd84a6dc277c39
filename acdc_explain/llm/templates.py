"""Prompt templates: jinja2 in its sandbox, with undefined variables as errors."""

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
    """Templates by name, from several folders.

    Where several folders have a template, the first folder's is used. Templates are rendered in a
    process of their own, which bounds their memory, time and size.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = [str(Path(folder).resolve()) for folder in folders]
        self._environment = render_process.make_environment(self._folders)
        self._lock = threading.Lock()  # the process renders one template at a time
        self._process: subprocess.Popen[str] | None = None
        self._stop: weakref.finalize[Any, Any] | None = None

    def render(self, name: str, /, **variables: Any) -> str:
        """Render a prompt.

        Args:
            name: The template's name, without `.j2`.
            variables: The template's variables, as JSON can hold them.

        Returns:
            The prompt.

        Raises:
            UserError: if the template does not exist, has a mistake, or exceeds its limits.
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
        """The process's answer; None if the process died or had to be killed."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(SECONDS + 2, process.kill)
            timer.start()
            try:
                process.stdin.write(f"{request}\n")
                process.stdin.flush()
                line = process.stdout.readline()
                answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
            except OSError:
                answer = None
            except BaseException:  # Ctrl-C: the next request would read the answer to this one
                self._end()
                raise
            finally:
                timer.cancel()
            if answer is None:
                self._end()
            return answer

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, sys.path))  # where this process finds jinja2
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
        """A digest of all templates, so that a changed prompt makes another run.

        Raises UserError if a template cannot be read.
        """
        return content_id("templates", {name: self._source(name) for name in self._names})

    @property
    def _names(self) -> list[str]:
        """All templates, without hidden files, hidden folders and files of other kinds."""
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
                f"The template {name} is not in UTF-8 ({error.reason}); fix it or take it "
                "out of the folder."
            ) from error
        except Exception as error:  # jinja2's or the system's: the file cannot be read
            raise UserError(
                f"The template {name} cannot be read ({type(error).__name__}); fix it or take it "
                "out of the folder."
            ) from error


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
