"""The load: lists of requests in files, and rounds of wrk that send them."""

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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode != 0 or line is None:
        raise WrongAnswer(f"wrk failed: {done.stdout}{done.stderr}")
    number = {name: float(value) for name, value in (field.split("=") for field in line.split()[1:])}
    if number["wrong"] or number["lost"] or not number["requests"]:
        raise WrongAnswer(f"not every request was answered as it must: {line}")
    return Round(
        requests=int(number["requests"]),
        seconds=number["seconds"],
        p50_ms=number["p50_us"] / 1000,
        p99_ms=number["p99_us"] / 1000,
        max_ms=number["max_us"] / 1000,
        load_share=number["load_cpu"] / number["seconds"],
    )
