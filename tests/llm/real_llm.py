"""A real LLM over HTTP: llama.cpp in a process of its own, serving SmolLM2's GGUF."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = """
import sys, time, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx, parameters.n_parallel, parameters.port = 8192, 1, 0
parameters.cpuparams.n_threads = int(sys.argv[2])
server = xllamacpp.Server(parameters)
print("listening on", server.listening_address, flush=True)
time.sleep(10_000)
"""


@contextmanager
def serve_gguf(file: Path) -> Iterator[str]:
    """The base URL, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(file), os.environ.get("OMP_NUM_THREADS", "2")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := re.search(r"listening on (http\S+)", process.stdout.readline()):
                yield f"{found[1]}/v1"
                return
        raise TimeoutError("the server did not start")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
