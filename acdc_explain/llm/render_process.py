"""The script that renders templates for `templates`, in a process of its own.

A template is a program: it can write without end, or compute without writing. Here its memory,
time and size are bounded, and the process can be killed. It reads one request a line from standard
input and writes one answer a line to standard output, both JSON. It imports nothing of the
package, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 2**30  # bytes


def fenced_json(value: Any) -> str:
    """A value as JSON that cannot close the tags around it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def make_environment(folders: list[str]) -> ImmutableSandboxedEnvironment:
    """The sandbox. Where several folders have a template, the first folder's is used."""
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,  # prompts are plain text
        optimized=False,  # or constants would be computed before the timer starts
    )
    environment.filters["json"] = fenced_json
    return environment


def answer(environment: ImmutableSandboxedEnvironment, request: Mapping[str, Any]) -> Any:
    """The text; or the problem, and the template and line where it occurred."""
    try:
        with suppress(AttributeError):  # not on every system; the parent process has a timer too
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            return {"text": render(environment, request)}
        finally:
            with suppress(AttributeError):
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception as error:  # a template may raise anything
        return {"problem": describe(error), "where": location(error, request["name"])}


def render(environment: ImmutableSandboxedEnvironment, request: Mapping[str, Any]) -> str:
    """The rendered text. Raises whatever the template raises, and ValueError if it is too long."""
    stream = environment.get_template(request["name"]).generate(**request["variables"])
    pieces, size, most = [], 0, request["characters"]
    for piece in stream:
        size += len(piece)
        if size > most:  # raised inside the template, so that its line is in the traceback
            stream.throw(ValueError(f"it writes more than {most:,} characters"))  # type: ignore[attr-defined]
        pieces.append(piece)
    return "".join(pieces).encode("utf-8", "replace").decode()


def describe(error: Exception) -> str:
    """The error in words that help the template's author."""
    if isinstance(error, MemoryError):
        return "it needs more memory than a prompt can"
    if isinstance(error, TemplateNotFound):
        return f"there is no template {error}"
    if isinstance(error, (TemplateError, ValueError, TimeoutError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def location(error: Exception, name: str) -> str:
    """The template in which an error occurred, with the line if it is known."""
    if isinstance(error, UnicodeDecodeError):
        return name
    line, template = getattr(error, "lineno", None), getattr(error, "name", None)
    if line:
        return f"{template or name}, line {line}"
    lines = [
        f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".j2")
    ]
    return lines[-1] if lines else name


def on_alarm(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it takes too long")


def limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> None:
    limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when to stop
    with suppress(AttributeError):
        signal.signal(signal.SIGALRM, on_alarm)
    environment = make_environment(sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(answer(environment, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
