"""Leases on requests: while one command waits for a reply, no other sends the same request."""

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
    """The process that holds a lease.

    `started` is the process's start time, since numbers of processes are used again. `token`
    distinguishes several holders in one process.
    """

    host: str
    process: int
    started: str
    token: str

    @staticmethod
    def new() -> Holder:
        """A holder in this process."""
        process = os.getpid()
        return Holder(socket.gethostname(), process, _start_time(process), secrets.token_hex(8))

    def lease(self, seconds: float) -> dict[str, Any]:
        """A lease as it is stored. It expires after `seconds` if it is not released before."""
        return {**asdict(self), "until": time.time() + seconds}

    def is_blocked_by(self, lease: Mapping[str, Any] | None) -> bool:
        """Whether a stored lease keeps this holder from sending the request.

        An expired lease does not, nor does one of a process on this host that has ended.
        """
        if lease is None or lease.get("token") == self.token:
            return False
        if time.time() > lease.get("until", 0.0):
            return False
        return lease.get("host") != self.host or _is_running(lease)


def _is_running(lease: Mapping[str, Any]) -> bool:
    """Whether the process of a lease on this host still runs."""
    process = lease["process"]
    if os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it runs under another user
    return bool(_start_time(process) == lease["started"])


def _start_time(process: int) -> str:
    """When a process started, in clock ticks since boot; empty where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
