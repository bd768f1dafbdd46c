"""Counts the instructions of single requests; started by benches/instructions.sh.

Each kind of request is run twice under callgrind, N and 5 N times. What the second run needed more, divided by 4 N, is what one
request needs: start and stop are in both. All threads are counted, in user space only; the kernel's share is not seen here.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECS = 120
STOP_SECS = 120
ANSWER_SECS = 60
# Sign-ins that are under way together, so that they share commits as they would under load.
CONNECTIONS = 50
FUNCTIONS_SHOWN = 10
NAME_CHARS_MAX = 110
SETTINGS = {
    "SESSIOND_SERVER__WORKERS": "1",
    # The regular work as seldom as may be: how often it comes depends on how fast the machine is.
    "SESSIOND_SESSIONS__FLUSH_INTERVAL_MS": "60000",
    # It tells the port.
    "RUST_LOG": "info",
    # Without the instruction that fills or copies a whole piece of memory: callgrind counts it once for each byte.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS,-FSRM",
}
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
NOTE = (
    "In user space, all threads. Valgrind's processor has no instructions for SHA-256: here hashes are computed in software, "
    "unlike on most machines."
)
NO_SYMBOLS = (
    "In which functions they are does not show, as the binary has no symbols; `CARGO_PROFILE_RELEASE_STRIP=none` builds one that has."
)


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECS)

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def answer(self, status: int, has_body: bool = True) -> bytes:
        """The body of the next answer, which must have this status."""
        head, _, body = self.read_until(lambda data: b"\r\n\r\n" in data).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 %d " % status):
            raise ConnectionError(f"not {status}: {head.decode(errors='replace')}")
        length = int(re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)[1]) if has_body else 0
        return self.read_until(lambda data: len(data) >= length, body)

    def read_until(self, is_enough: Callable[[bytes], bool], data: bytes = b"") -> bytes:
        while not is_enough(data):
            more = self.socket.recv(65_536)
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data


@dataclass
class Server:
    """A server under callgrind, and a key for it."""

    port: int
    key: str

    def sign_in(self, user: str) -> bytes:
        body = json.dumps({"user_id": user, "user_agent": USER_AGENT, "ip_address": "203.0.113.7"})
        return (
            f"POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def check(self, method: str, token: str) -> bytes:
        return (
            f"{method} /v1/session HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()


def check_often(server: Server, method: str, count: int) -> None:
    connection = Connection(server.port)
    connection.send(server.sign_in("ada-1"))
    request = server.check(method, json.loads(connection.answer(201))["token"])
    for _ in range(count):
        connection.send(request)
        connection.answer(200, has_body=method != "HEAD")


def sign_in_often(server: Server, count: int) -> None:
    users = random.Random(7)
    connections = [Connection(server.port) for _ in range(CONNECTIONS)]
    for _ in range(count // CONNECTIONS):
        for connection in connections:
            connection.send(server.sign_in(f"user-{users.randrange(1_000_000)}"))
        for connection in connections:
            connection.answer(201)


@dataclass
class Work:
    """A kind of request: its name, how often it is made in the short run, and how."""

    name: str
    count: int
    run: Callable[[Server, int], None]


WORKS = [
    Work("check, full answer: `GET /v1/session`", 500, lambda server, count: check_often(server, "GET", count)),
    Work("check, yes or no: `HEAD /v1/session`", 500, lambda server, count: check_often(server, "HEAD", count)),
    Work(f"create, {CONNECTIONS} at once: `POST /v1/sessions`", 1_000, sign_in_often),
]


def count_instructions(binary: Path, work: Work) -> Counter[str]:
    """The instructions of one request, by function."""
    short = profile(binary, work.run, work.count)
    long = profile(binary, work.run, 5 * work.count)
    long.subtract(short)
    return Counter({name: round(instructions / (4 * work.count)) for name, instructions in long.items()})


def profile(binary: Path, run: Callable[[Server, int], None], count: int) -> Counter[str]:
    """The instructions of a whole run of the server, by function."""
    with tempfile.TemporaryDirectory(prefix="sessiond-instructions-") as name:
        folder = Path(name)
        with serving(binary, folder) as server:
            run(server, count)
        return read_profile(folder / "profile")


@contextmanager
def serving(binary: Path, folder: Path) -> Iterator[Server]:
    """A server under callgrind, with a new database. When it has ended its profile is written."""
    database = str(folder / "sessions.db")
    # What the caller's environment says to sessiond is not to change the figures.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND_")}
    environment |= SETTINGS
    made = subprocess.run(
        [binary, "keys", "create", "instructions", "--database", database],
        env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, timeout=START_SECS,
    )  # fmt: skip
    command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder / 'profile'}"]
    command += [str(binary), "serve", "--listen", "127.0.0.1:0", "--database", database]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Server(port_of(process, log), made.stdout.strip())
        process.terminate()
        if process.wait(STOP_SECS) != 0:
            raise ChildProcessError(f"the server failed: {log.read_text(errors='replace')[-2000:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def port_of(process: subprocess.Popen, log: Path) -> int:
    """The port that the server tells in its log when it serves."""
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline and process.poll() is None:
        told = re.search(r"serving on http://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace"))
        if told:
            return int(told[1])
        time.sleep(0.1)
    raise ChildProcessError(f"the server does not start: {log.read_text(errors='replace')[-2000:]}")


def read_profile(path: Path) -> Counter[str]:
    """The instructions in each function itself, out of the format that
    https://valgrind.org/docs/manual/cl-format.html describes."""
    names: dict[str, str] = {}
    instructions: Counter[str] = Counter()
    function = ""
    is_of_call = False
    with path.open(errors="replace") as lines:
        for line in lines:
            if named := re.match(r"(c?)fn=(\(\d+\))(?: (.*))?", line):
                # A name is written out where it first appears, also as the one that is called.
                if named[3]:
                    names[named[2]] = plain(named[3])
                if not named[1]:
                    function = names[named[2]]
            elif line.startswith("calls="):
                is_of_call = True
            elif line[0] in "0123456789+-*":
                # What follows a call is what the called function took: it is counted there.
                if not is_of_call:
                    instructions[function] += int(line.split()[1])
                is_of_call = False
    if not instructions:
        raise ValueError("callgrind wrote no profile")
    return instructions


def plain(name: str) -> str:
    """A function's name without the hash that Rust ends it with, and without callgrind's number of a recursion."""
    return re.sub(r"::h[0-9a-f]{16}$", "", re.sub(r"'\d+$", "", name))


def report(counts: dict[str, Counter[str]]) -> str:
    lines = ["| request | instructions |", "|---|---:|"]
    lines += [f"| {name} | {functions.total():,} |" for name, functions in counts.items()]
    lines += ["", NOTE]
    if not all(map(has_symbols, counts.values())):
        return "\n".join([*lines, "", NO_SYMBOLS])
    for name, functions in counts.items():
        lines += ["", f"Where they are, {name}:", "", *function_table(functions)]
    return "\n".join(lines)


def has_symbols(functions: Counter[str]) -> bool:
    nameless = sum(instructions for name, instructions in functions.items() if name.startswith(("0x", "???")))
    return nameless < functions.total() / 2


def function_table(functions: Counter[str]) -> list[str]:
    lines = ["| function | instructions | share |", "|---|---:|---:|"]
    for name, instructions in functions.most_common(FUNCTIONS_SHOWN):
        shown = name if len(name) <= NAME_CHARS_MAX else name[: NAME_CHARS_MAX - 1] + "…"
        lines.append(f"| `{shown}` | {instructions:,} | {instructions / functions.total():.0%} |")
    return lines


def main() -> None:
    # Also when it is ended, nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    binary = Path(sys.argv[1])
    counts = {}
    try:
        for work in WORKS:
            print(f"{work.count} and {5 * work.count} times: {work.name}", file=sys.stderr, flush=True)
            counts[work.name] = count_instructions(binary, work)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(f"benches/instructions.sh: FAILED: {error}")
    print(report(counts))


if __name__ == "__main__":
    main()
