"""Renders templates for `rendering`, as a script in a process of its own that may be killed.

A template is a program: it can write without end, or compute without writing. So it is given a
bounded memory, a time and a size here. One request a line on standard input, one answer a line on
standard output, both JSON. Nothing of the package is imported, so that it starts at once.
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


def fenced(value: Any) -> str:
    """Data as JSON that cannot close the tags around it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def environment_of(folders: list[str]) -> ImmutableSandboxedEnvironment:
    """The sandbox: templates from several folders; the first that has one wins."""
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,  # prompts are plain text
        optimized=False,  # or constants are computed before anybody looks at the clock
    )
    environment.filters["json"] = fenced
    return environment


def answer(environment: ImmutableSandboxedEnvironment, request: Mapping[str, Any]) -> Any:
    """The text, or what is wrong with the template and where."""
    try:
        with suppress(AttributeError):  # not everywhere; who asked has a clock of their own
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            return {"text": rendered(environment, request)}
        finally:
            with suppress(AttributeError):
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception as error:  # a template may raise anything
        return {"problem": told(error), "where": place(error, request["name"])}


def rendered(environment: ImmutableSandboxedEnvironment, request: Mapping[str, Any]) -> str:
    stream = environment.get_template(request["name"]).generate(**request["variables"])
    pieces, size, most = [], 0, request["characters"]
    for piece in stream:
        size += len(piece)
        if size > most:  # thrown where the template is, so that its line is known
            stream.throw(ValueError(f"it writes more than {most:,} characters"))  # type: ignore[attr-defined]
        pieces.append(piece)
    return "".join(pieces).encode("utf-8", "replace").decode()


def told(error: Exception) -> str:
    """What a person can do something about."""
    if isinstance(error, MemoryError):
        return "it needs more memory than a prompt can"
    if isinstance(error, TemplateNotFound):
        return f"there is no template {error}"
    if isinstance(error, (TemplateError, ValueError, TimeoutError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def place(error: Exception, name: str) -> str:
    """The template that was at work, with the line where one is known."""
    if isinstance(error, UnicodeDecodeError):
        return name
    line, own = getattr(error, "lineno", None), getattr(error, "name", None)
    if line:
        return f"{own or name}, line {line}"
    lines = [
        f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".j2")
    ]
    return lines[-1] if lines else name


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it takes too long")


def bounded_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> None:
    bounded_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked decides when to stop
    with suppress(AttributeError):
        signal.signal(signal.SIGALRM, late)
    environment = environment_of(sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(answer(environment, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
