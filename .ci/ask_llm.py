"""The installed program asks a scripted LLM, as a user would: .ci/ask_llm.py PROGRAM.

Run in the source folder; the program itself is started in an empty one, where nothing of the
source can be found by accident. Any command that fails or prints a traceback ends this with 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "llm"))
from scripted_server import Answer, completion, serve

LLM = ["--llm-model", "gpt-4.1-mini"]
SMALL = ["--discoverer", "eap", "--max-edges", "12", "--examples", "4", "--judge", "role_card"]
COMMANDS = (
    ["run", "ioi", "--labeler", "llm", *LLM, *SMALL],
    ["run", "ioi", "--labeler", "agent", "--labeler-set", "calls=1", *LLM, *SMALL],
    ["label", "last", "--labeler", "llm", "--llm-model", "gpt-4.1", "--dry-run"],
    ["label", "last", "--labeler", "llm", "--llm-model", "gpt-4.1", "--batch-out", "out.jsonl"],
    ["bench", "firewall", "last", *LLM],
)


def instance(schema: dict[str, Any], whole: dict[str, Any]) -> Any:
    """Something small that fits a schema."""
    if "$ref" in schema:
        return instance(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], whole)
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: instance(of, whole) for name, of in schema["properties"].items()}
    if schema["type"] == "array":
        return [instance(schema["items"], whole)] * schema.get("minItems", 0)
    return {"string": "It says so.", "number": 0.5, "integer": 1, "boolean": True}[schema["type"]]


def script(number: int, body: dict[str, Any]) -> Answer:
    """An LLM that answers in the terms it is asked in."""
    schema = body["response_format"]["json_schema"]["schema"]
    return completion(json.dumps(instance(schema, schema)))


def wrong_with(command: list[str], folder: str, url: str) -> str | None:
    """What is wrong with a command of the program; None if it does what it should."""
    environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "x"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    print(f"{time.monotonic() - started:5.1f} s  acdc-explain {' '.join(command[1:])}", flush=True)
    if done.returncode or "Traceback" in done.stdout + done.stderr:
        return f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return None if done.stdout.strip() else "it prints nothing"


def main() -> None:
    program = str(Path(sys.argv[1]).absolute())
    with serve(script) as server, TemporaryDirectory() as folder:
        for command in COMMANDS:
            asked = len(server.requests)
            problem = wrong_with([program, *command], folder, server.url)
            silent = "--dry-run" in command or "--batch-out" in command
            if problem is None and (len(server.requests) == asked) != silent:
                problem = f"{len(server.requests) - asked} requests to the LLM"
            if problem is not None:
                sys.exit(problem)
        if not Path(folder, "out.jsonl").read_text().strip():
            sys.exit("no questions in the batch file")


if __name__ == "__main__":
    main()
