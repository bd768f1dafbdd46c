"""What is measured of sessiond alone, against numbers of its own: memory, disk, start, sweep, streams, touches, latency at a rate."""

import base64
import contextlib
import os
import resource
import select
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from . import load, machine, scale, servers, talking
from .load import Requests, Stream
from .report import in_three_digits
from .servers import Server, Servers
from .works import CACHE, UNLIMITED, USERS_AT_RANDOM, bearer, copied

MB = 1_000_000
KIB = 1024
# What Chrome says, as an example of the longer ones; the other is scale.USER_AGENT.
LONG_USER_AGENT = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
HEALTH = load.request("GET", "/healthz", {})
# A first start may have to bring a large database to the newest schema, and copies it before.
FIRST_START_SECS_MAX = 600
START_SECS_MAX = 30
# A tenth of the idle timeout, the longest that is allowed: no use is recorded within a run.
NEVER_TOUCHED = {"sessions__touch_interval_secs": 60_480}
KEPT_ACTIVE = 10_000
SWEEP_SECS_MAX = 400
# Files that are open besides the streams, here and in the server.
OTHER_FILES = 1_000


@dataclass
class Sizes:
    """How much is seeded and how long is measured."""

    sessions: int
    starts: int
    rest_secs: int
    streams: int
    stream_secs: int
    touch_interval_secs: int
    touch_secs: int
    expiring: int
    sweep_rounds: int
    sweep_lead_secs: int
    load_rounds: int
    load_secs: int


@dataclass
class Figure:
    """One line of the table. `is_met` is None where there is no target, or nothing was measured."""

    what: str
    target: str
    text: str
    is_met: bool | None
    numbers: dict = field(default_factory=dict)


@dataclass
class Seeded:
    """A database that no server has open, with sessions made over HTTP."""

    database: Path
    key: str
    tokens: list[str]
    agent_len: int


def open_files(streams: int) -> bool:
    """Allows as many open files as the streams need, here and in what is started from here."""
    wanted = streams + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= wanted


class Alone:
    """The servers of a run, one after the other, and the databases that they get copies of."""

    def __init__(
        self, started: Servers, sizes: Sizes, databases: Path, paced: Path, load_core: int, can_open_streams: bool
    ) -> None:
        self.servers = started
        self.sizes = sizes
        self.databases = databases
        self.paced = paced
        self.load_core = load_core
        self.can_open_streams = can_open_streams
        self.folder = started.folder
        self.sessiond = started.programs.sessiond
        self.notes: list[str] = []
        self.seeds: dict[str, Seeded] = {}

    def seeded(self, user_agent: str = scale.USER_AGENT) -> Seeded:
        """Sessions with one user agent, five of each user, all from an address that has a place."""
        if user_agent not in self.seeds:
            database = self.folder / f"seeded-{len(user_agent)}.db"
            key = scale.api_key(self.sessiond, database)
            server = self.servers.sessiond(database.stem, database, **UNLIMITED)
            users = max(self.sizes.sessions // scale.SESSIONS_PER_USER, 1)
            requests = [scale.sign_in(key, f"user-{number % users}", user_agent) for number in range(self.sizes.sessions)]
            tokens = talking.ask_each(server.port, requests, talking.token_in_body)
            server.stop()
            self.seeds[user_agent] = Seeded(database, key, tokens, len(user_agent))
        return self.seeds[user_agent]

    def both_seeded(self) -> list[Seeded]:
        return [self.seeded(), self.seeded(LONG_USER_AGENT)]

    def copy_of(self, seeded: Seeded, name: str) -> Path:
        return copied(seeded.database, self.folder / f"{name}.db")

    def checks(self, name: str, tokens: list[str]) -> Requests:
        return load.one_kind(self.folder / "requests" / name, list(map(check, tokens)))

    def round(self, server: Server, requests: Requests, secs: int) -> load.Round:
        return load.run_round(server.port, requests, 64, secs, self.load_core)

    def paced_round(self, server: Server, streams: list[Stream]) -> list[load.PacedRound]:
        return load.run_paced(self.paced, server.port, streams, self.sizes.load_secs, self.load_core)


def check(token: str) -> bytes:
    return load.request("GET", "/v1/session", bearer(token))


def memory_of(server: Server) -> dict[str, int]:
    return machine.memory(server.processes[0].pid)


def in_mb(size: float) -> str:
    return f"{in_three_digits(size / MB)} MB"


# The binary.


def binary(bench: Alone) -> Iterator[Figure]:
    """The size of the binary without symbols, whether it was built with or without."""
    file = bench.sessiond
    if shutil.which("strip"):
        file = bench.folder / "stripped"
        subprocess.run(["strip", "-o", str(file), str(bench.sessiond)], check=True, timeout=60)
    else:
        bench.notes.append("There is no `strip`: the binary is as it was built.")
    size = file.stat().st_size
    yield Figure("binary, stripped", "≤ 20 MB", in_mb(size), size <= 20 * MB, {"bytes": size})


# Start.


def starts(bench: Alone) -> Iterator[Figure]:
    """From just before the fork to the first answer; the system's page cache is warm."""
    new = [start(bench, bench.folder / f"new-{number}.db") for number in range(bench.sizes.starts)]
    yield start_figure("a new database", "", None, new)
    empty = bench.folder / "new-0.db"
    yield start_figure("an empty database", "< 20 ms", 0.020, [start(bench, empty) for _ in range(bench.sizes.starts)])
    for sessions, target, limit in ((1_000_000, "", None), (10_000_000, "< 50 ms", 0.050)):
        database = bench.databases / f"scale-{sessions}.db"
        if not database.exists():
            bench.notes.append(f"Start with {sessions:,} sessions: made by `benches/scale.sh {sessions}`, which was not run.")
            continue
        first_start(bench, database)
        found = [start(bench, database) for _ in range(bench.sizes.starts)]
        yield start_figure(f"{sessions:,} sessions", target, limit, found)


def start_figure(what: str, target: str, limit: float | None, found: list[float]) -> Figure:
    secs = median(found)
    text = f"{in_three_digits(1000 * secs)} ms (median of {len(found)}, at most {in_three_digits(1000 * max(found))})"
    return Figure(f"start, {what}", target, text, None if limit is None else secs < limit, {"secs": found})


def first_start(bench: Alone, database: Path) -> None:
    """Brings a database to the newest schema. The copy of the older one, which sessiond makes, goes: so does this one when it is
    made anew."""
    pattern = f"{database.name}.before-schema-*"
    before = set(database.parent.glob(pattern))
    start(bench, database, FIRST_START_SECS_MAX)
    for copy in set(database.parent.glob(pattern)) - before:
        copy.unlink()


def start(bench: Alone, database: Path, secs_max: int = START_SECS_MAX) -> float:
    """Starts a server by itself, asks until it answers, and stops it. It inherits its core: nothing runs before it."""
    port = servers.free_port()
    command = [str(bench.sessiond), "serve", "--listen", f"127.0.0.1:{port}", "--database", str(database)]
    environment = {**os.environ, "SESSIOND_SERVER__WORKERS": "1", "RUST_LOG": "warn"}
    log = bench.folder / "start.log"
    with log.open("wb") as output:
        os.sched_setaffinity(0, {bench.servers.core})
        try:
            began = time.monotonic()
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        finally:
            os.sched_setaffinity(0, {bench.load_core})
    try:
        while not is_answering(port):
            if process.poll() is not None:
                raise ChildProcessError(f"sessiond ended: {log.read_text(errors='replace')[-2000:]}")
            if time.monotonic() > began + secs_max:
                raise TimeoutError("sessiond does not answer in time")
        return time.monotonic() - began
    finally:
        servers.stop_process(process)


def is_answering(port: int) -> bool:
    with contextlib.suppress(OSError):
        return talking.ask(port, HEALTH)[0] == 200
    return False


# Memory.


def memory(bench: Alone) -> Iterator[Figure]:
    """At rest, with everything as it is by default; then with each session in the cache."""
    server = bench.servers.sessiond("rest", bench.folder / "rest.db")
    first = memory_of(server)
    time.sleep(bench.sizes.rest_secs)
    later = memory_of(server)
    server.stop()
    text = f"{in_mb(first['resident'])}, after {bench.sizes.rest_secs} s {in_mb(later['resident'])} ({in_mb(later['anonymous'])} without files)"
    is_met = max(first["resident"], later["resident"]) <= 25 * MB
    yield Figure("memory at rest, empty", "≤ 25 MB", text, is_met, {"first": first, "later": later})
    for seeded in bench.both_seeded():
        yield cached_memory(bench, seeded)


def cached_memory(bench: Alone, seeded: Seeded) -> Figure:
    """What the resident memory grows by when all sessions are checked, divided by their number."""
    server = bench.servers.sessiond("cached", bench.copy_of(seeded, "cached"), **CACHE)
    time.sleep(bench.sizes.rest_secs)
    before = memory_of(server)
    requests = [load.request("GET", "/v1/session?touch=false", bearer(token)) for token in seeded.tokens]
    answers = talking.ask_each(server.port, requests, lambda _, body: str(len(body)))
    server.settle()
    after = memory_of(server)
    server.stop()
    each = (after["resident"] - before["resident"]) / len(seeded.tokens)
    return Figure(
        f"memory per cached session, user agent of {seeded.agent_len} bytes",
        "≤ 1,024 bytes",
        f"{each:,.0f} bytes ({in_mb(before['resident'])} before, {in_mb(after['resident'])} with {len(answers):,})",
        each <= KIB,
        {"before": before, "after": after, "sessions": len(answers)},
    )


# Disk.


def disk(bench: Alone) -> Iterator[Figure]:
    """The file after its server has stopped, which empties the log into it; then without the pages that events have."""
    for seeded in bench.both_seeded():
        agent = f"user agent of {seeded.agent_len} bytes"
        count = len(seeded.tokens)
        log = seeded.database.with_name(f"{seeded.database.name}-wal")
        if log.exists() and log.stat().st_size:
            bench.notes.append("The log was not empty after the server had stopped: sizes on disk lack what it holds.")
        size = seeded.database.stat().st_size
        parts = sizes_of_parts(seeded.database)
        pruned = size_without_events(bench.copy_of(seeded, "pruned"))
        text = f"{pruned / count:.0f} bytes"
        numbers = {"bytes": pruned, "with_events": size, "sessions": count, "parts": parts}
        yield Figure(f"disk per active session, events pruned, {agent}", "≤ 600 bytes", text, pruned <= 600 * count, numbers)
        yield Figure(f"disk with the event rows, {agent}", "", f"{size / count:.0f} bytes", None)
        shown = ", ".join(f"{name} {part / count:.0f}" for name, part in parts.items() if part >= count)
        if shown:
            bench.notes.append(f"Bytes per session by table and index, {agent}: {shown}.")
    if not parts:
        bench.notes.append("Python's SQLite has no dbstat: the size by table and index is not shown.")


def size_without_events(database: Path) -> int:
    """What the pages in use take once all events are deleted, as the purge does; nothing is moved together by a VACUUM."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM events")
        connection.commit()
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


def sizes_of_parts(database: Path) -> dict[str, int]:
    """Bytes of each table and index, largest first; nothing where SQLite was built without dbstat."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC").fetchall()
        except sqlite3.OperationalError:
            return {}
    return dict(rows)


# Idle streams.


def streams(bench: Alone) -> Iterator[Figure]:
    """One stream of each of many people, to whom nothing happens."""
    wanted = bench.sizes.streams
    what = f"memory with {wanted:,} idle streams of as many people"
    if not bench.can_open_streams:
        yield Figure(what, "≤ 150 MB for 5,000", "not measured: too few files may be open (`ulimit -Hn`)", None)
        return
    seeded = bench.seeded()
    people = bench.sizes.sessions // scale.SESSIONS_PER_USER
    tokens = seeded.tokens[: min(wanted, people)]
    server = bench.servers.sessiond("streams", bench.copy_of(seeded, "streams"), **CACHE)
    time.sleep(bench.sizes.rest_secs)
    before = memory_of(server)
    connections = [open_stream(server.port, token) for token in tokens]
    try:
        opened = memory_of(server)
        time.sleep(bench.sizes.stream_secs)
        later = memory_of(server)
        closed = sum(map(is_closed, connections))
    finally:
        for connection in connections:
            connection.close()
    server.stop()
    if closed:
        raise load.WrongAnswer(f"{closed} of {len(connections)} streams were closed")
    most = max(opened["resident"], later["resident"])
    each = (most - before["resident"]) / len(connections)
    text = f"{in_mb(most)}, {each / KIB:.1f} KiB each beside the {in_mb(before['resident'])} before"
    limit = 150 * MB * len(connections) / 5_000
    numbers = {"before": before, "opened": opened, "later": later, "streams": len(connections)}
    is_full = len(connections) == 5_000
    yield Figure(what, "≤ 150 MB for 5,000", text, most <= limit if is_full else None, numbers)


def open_stream(port: int, token: str) -> talking.Connection:
    """A stream whose head has been read."""
    connection = talking.Connection(port)
    connection.send(load.request("GET", "/v1/me/events", {**bearer(token), "Accept": "text/event-stream"}))
    head = connection.read_until(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise load.WrongAnswer(f"a stream was not opened: {head[:300]!r}")
    return connection


def is_closed(connection: talking.Connection) -> bool:
    """Whether the server has closed a stream. Comments that came are left out."""
    while select_readable(connection):
        try:
            connection.read_more()
        except ConnectionError:
            return True
    return b"event: end" in connection.unread


def select_readable(connection: talking.Connection) -> bool:
    poll = select.poll()
    poll.register(connection.socket, select.POLLIN)
    return bool(poll.poll(0))


# Each with the name that it is chosen by.
MEASURES: dict[str, tuple[str, Callable[[Alone], Iterator[Figure]]]] = {
    "binary": ("The binary", binary),
    "start": ("Starts", starts),
    "memory": ("Memory", memory),
    "disk": ("Disk", disk),
    "streams": ("Idle streams", streams),
}
