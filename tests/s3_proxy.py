"""Between a client and a server: counts bytes, fails requests, cuts connections and slows them down, as it is told."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

#: What a busy store answers. Source: Amazon S3 API Reference, "Error responses".
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy:
    """A proxy of HTTP/1.1 with one thread for each connection.

    Attributes:
        url: Where it listens.
        down: Bytes from the server to the client.
        up: Bytes from the client to the server.
        requests: First lines of the requests.
        failing: Part of the requests that are answered with 503 before they reach the server.
        cutting: Part of the answers that end in the middle.
        rate: Bytes a second in either direction, at most; 0 for no limit.
        drop: Says of a request whether its answer is lost: the server has it, and the client does not know.
        hold: Says of a request whether it is lost itself.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = {self._listener}
        self._random = random.Random(1)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.down = self.up = 0
        self.requests: list[str] = []
        self.failing = self.cutting = 0.0
        self.rate = 0
        self.drop: Callable[[str], bool] = lambda line: False
        self.hold: Callable[[str], bool] = lambda line: False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for one in list(self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(self._server)
        self._sockets |= {client, server}
        try:
            while self._exchange(client.makefile("rb", 0), client, server):
                pass
        except OSError:
            pass
        finally:
            for one in (client, server):
                self._sockets.discard(one)
                one.close()

    def _exchange(self, reader: object, client: socket.socket, server: socket.socket) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = _head(client)
        if not head:
            return False
        line = head.split(b"\r\n", 1)[0].decode()
        self.requests.append(line)
        if self.hold(line):
            return False
        fails = self._random.random() < self.failing
        if b"expect: 100-continue" in head.lower():
            if fails:
                self._answer(client, 503)
                return False
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(part for part in head.split(b"\r\n") if not part.lower().startswith(b"expect:"))
        if not fails:
            server.sendall(head)
        self.up += len(head)
        for piece in _body(client, head):
            self.up += len(piece)
            self._pause(len(piece))
            if not fails:
                server.sendall(piece)
        if fails:
            self._answer(client, 503)
            return True
        answer = _head(server)
        if not answer:
            return False
        drop = self.drop(line)
        cut = self._random.random() < self.cutting
        if drop or (cut and line.startswith("HEAD")):
            return False
        client.sendall(answer)
        self.down += len(answer)
        if line.startswith("HEAD"):
            return True
        sent = 0
        for piece in _body(server, answer):
            half = len(piece) // 2 if cut else len(piece)
            client.sendall(piece[:half])
            sent += half
            self.down += half
            self._pause(half)
            if cut:
                return False
        return True

    def _answer(self, client: socket.socket, status: int) -> None:
        client.sendall(b"HTTP/1.1 %d Busy\r\nContent-Length: %d\r\n\r\n%s" % (status, len(SLOW_DOWN), SLOW_DOWN))

    def _pause(self, size: int) -> None:
        if self.rate:
            time.sleep(size / self.rate)


def _head(one: socket.socket) -> bytes:
    """Up to and with the empty line, or nothing where the connection has ended."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = one.recv(1)
        if not piece:
            return b""
        head += piece
    return head


def _body(one: socket.socket, head: bytes):  # type: ignore[no-untyped-def]
    """The pieces of what follows a head."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        while True:
            size_line = b""
            while not size_line.endswith(b"\r\n"):
                size_line += one.recv(1)
            size = int(size_line.split(b";")[0], 16)
            yield size_line
            left = size + 2
            while left:
                piece = one.recv(min(left, 1 << 16))
                if not piece:
                    return
                left -= len(piece)
                yield piece
            if not size:
                return
    left = int(fields.get(b"content-length", b"0"))
    while left:
        piece = one.recv(min(left, 1 << 16))
        if not piece:
            return
        left -= len(piece)
        yield piece
