"""An OpenAI-compatible server on this machine whose answers are scripted."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[int, dict[str, Any]], Answer]


def completion(content: str | None, *, finish: str = "stop", refusal: str | None = None) -> Answer:
    """A well-formed reply of the chat completions endpoint."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    document = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
    return 200, {}, json.dumps(document).encode()


def failure(status: int, message: str = "", **headers: str) -> Answer:
    text = message or f"status {status}"
    return status, headers, json.dumps({"error": {"message": text}}).encode()


RESET: Answer = (0, {}, b"")  # the connection is cut instead of an answer


LINGER = struct.pack("ii", 1, 0)  # closing resets


class Server:
    """A running server: its address and the requests it got, in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """A server on a free port of the loopback address, until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(body)
                server.keys.append(self.headers.get("Authorization", ""))
            status, headers, content = script(number, body)
            if not status:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                self.connection.close()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            with contextlib.suppress(ConnectionError):  # the client may have closed the connection
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
