"""The load: lists of requests in files, and rounds that send them: as fast as they are answered (wrk), or at a rate (paced.rs)."""

import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("requests.lua")


class WrongAnswer(Exception):
    """A server did not answer as it must. Nothing that was measured with it counts."""


def request(method: str, path: str, headers: dict[str, str], body: str = "") -> bytes:
    """One HTTP request, as it goes over the connection."""
    head = {"Host": "localhost", **headers}
    if body:
        head |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode()


@dataclass
class Requests:
    """Lists of requests, and how often each of them has its turn."""

    files: list[Path]
    weights: list[int]
    first: bytes

    def pattern(self) -> str:
        """The turns, mixed, the same each time."""
        turns = [number for number, weight in enumerate(self.weights, start=1) for _ in range(weight)]
        random.Random(1).shuffle(turns)
        return "".join(map(str, turns))


def write_list(path: Path, requests: list[bytes]) -> Path:
    """A list of requests in random order, but the same in each run."""
    mixed = list(requests)
    random.Random(1).shuffle(mixed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0".join(mixed))
    return path


def one_kind(path: Path, requests: list[bytes]) -> Requests:
    """Requests of one kind."""
    return Requests([write_list(path, requests)], [1], requests[0])


@dataclass
class Round:
    """What one round showed."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    load_share: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def run_round(port: int, requests: Requests, connections: int, seconds: int, core: int) -> Round:
    """One round of wrk, on its own core."""
    command = ["taskset", "-c", str(core), "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT), f"http://127.0.0.1:{port}/"]
    files = ",".join(str(file) for file in requests.files)
    environment = {**os.environ, "FILES": files, "PATTERN": requests.pattern()}
    (number,) = results_of(command, environment, seconds)
    return Round(
        requests=int(number["requests"]),
        seconds=number["seconds"],
        p50_ms=number["p50_us"] / 1000,
        p99_ms=number["p99_us"] / 1000,
        max_ms=number["max_us"] / 1000,
        load_share=number["load_cpu"] / number["seconds"],
    )


@dataclass
class Stream:
    """Requests that are sent at a rate, whatever the answers do."""

    requests: Requests
    rate: float
    expected: int
    connections: int = 64


@dataclass
class PacedRound:
    """What one round showed of one stream. Times begin when a request was due."""

    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    # How late requests left although a connection was free: not the server's fault.
    late_p99_ms: float


def run_paced(paced: Path, port: int, streams: list[Stream], seconds: int, core: int) -> list[PacedRound]:
    """One round of one or two streams, on the core of the load."""
    command = ["taskset", "-c", str(core), str(paced), str(port), str(seconds)]
    for stream in streams:
        (file,) = stream.requests.files
        command += [f"{stream.rate:.1f}", str(stream.connections), str(stream.expected), str(file)]
    return [
        PacedRound(
            rate=number["requests"] / number["seconds"],
            p50_ms=number["p50_us"] / 1000,
            p99_ms=number["p99_us"] / 1000,
            max_ms=number["max_us"] / 1000,
            late_p99_ms=number["late_p99_us"] / 1000,
        )
        for number in results_of(command, dict(os.environ), seconds)
    ]


def results_of(command: list[str], environment: dict[str, str], seconds: int) -> list[dict[str, float]]:
    """Runs a load generator; the numbers of the lines that it prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not lines:
        raise WrongAnswer(f"the load generator failed: {done.stdout}{done.stderr}")
    found = []
    for line in lines:
        number = {name: float(value) for name, value in (field.split("=") for field in line.split()[1:])}
        if number["wrong"] or number["lost"] or not number["requests"]:
            raise WrongAnswer(f"not every request was answered as it must: {line}")
        found.append(number)
    return found
