"""Who is asking an LLM something just now, so that no other command asks and pays the same."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a machine; `token` tells its commands apart."""

    host: str
    process: int
    started: str
    token: str

    @staticmethod
    def new() -> Holder:
        process = os.getpid()
        return Holder(socket.gethostname(), process, _started(process), secrets.token_hex(8))

    def lease(self, seconds: float) -> dict[str, Any]:
        """What is written down: it ends by itself, if nothing else ends it."""
        return {**asdict(self), "until": time.time() + seconds}

    def respects(self, lease: Mapping[str, Any] | None) -> bool:
        """Whether what is written there keeps this one from asking.

        A process that was killed does not, nor one that is on another machine and late.
        """
        if lease is None or lease.get("token") == self.token:
            return False
        if time.time() > lease.get("until", 0.0):
            return False
        return lease.get("host") != self.host or _runs(lease)


def _runs(lease: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is there still, and is not another of the same number."""
    process = lease["process"]
    if os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is somebody else's
    return bool(_started(process) == lease["started"])


def _started(process: int) -> str:
    """When a process began, where the system says so."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
