"""Talks to the servers before they are measured: asks single questions, and signs many users in."""

import json
import re
import socket
from collections.abc import Callable

CONNECTIONS = 16
REQUESTS_AT_ONCE = 8
TIMEOUT_SECS = 30


class Connection:
    """An HTTP/1.1 or Redis connection that is read as bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECS)
        self.unread = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.unread:
            self.read_more()
        read, _, self.unread = self.unread.partition(mark)
        return read

    def read_bytes(self, count: int) -> bytes:
        while len(self.unread) < count:
            self.read_more()
        read, self.unread = self.unread[:count], self.unread[count:]
        return read

    def read_more(self) -> None:
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.unread += data

    def answer(self, is_head: bool = False) -> tuple[int, bytes, bytes]:
        """The next HTTP answer: status, head, body."""
        head = self.read_until(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body = self.read_bytes(int(length[1])) if length and not is_head else b""
        return int(head.split(None, 2)[1]), head, body

    def close(self) -> None:
        self.socket.close()


def ask(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """One request and its answer."""
    connection = Connection(port)
    try:
        connection.send(request)
        return connection.answer(is_head=request.startswith(b"HEAD"))
    finally:
        connection.close()


def ask_each(
    port: int, requests: list[bytes], read: Callable[[bytes, bytes], str], connection_count: int = CONNECTIONS
) -> list[str]:
    """Sends all requests, some at a time on some connections, and reads something from each 2xx answer."""
    connections = [Connection(port) for _ in range(connection_count)]
    results: list[str] = []
    for start in range(0, len(requests), connection_count * REQUESTS_AT_ONCE):
        waiting = []
        for number, connection in enumerate(connections):
            first = start + number * REQUESTS_AT_ONCE
            batch = requests[first : first + REQUESTS_AT_ONCE]
            if batch:
                connection.send(b"".join(batch))
                waiting.append((connection, len(batch)))
        for connection, count in waiting:
            for _ in range(count):
                status, head, body = connection.answer()
                if not 200 <= status < 300:
                    raise ConnectionError(f"{status}: {body[:300]!r}")
                results.append(read(head, body))
    for connection in connections:
        connection.close()
    return results


def token_in_body(_head: bytes, body: bytes) -> str:
    """The token of an answer in JSON."""
    return json.loads(body)["token"]


def cookie_in_head(head: bytes, _body: bytes) -> str:
    """The cookie of an answer, as it is sent back: name and value."""
    found = re.search(rb"\r\nset-cookie: *([^;\r]+)", head, re.IGNORECASE)
    if not found:
        raise ConnectionError("an answer to a sign-in sets no cookie")
    return found[1].decode()


def redis(port: int, *commands: tuple[str, ...]) -> list[bytes]:
    """Commands to Redis, sent together; their one-line answers."""
    connection = Connection(port)
    try:
        connection.send(b"".join(map(redis_command, commands)))
        answers = [connection.read_until(b"\r\n") for _ in commands]
    finally:
        connection.close()
    wrong = next((answer for answer in answers if answer.startswith(b"-")), None)
    if wrong:
        raise ConnectionError(wrong.decode())
    return answers


def redis_command(command: tuple[str, ...]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
