"""What is measured of sessiond alone: memory, disk, start, sweep, streams, touches, latency at a rate."""

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
# Many creations share a commit.
SEEDING_CONNECTIONS = 128
HEALTH = load.request("GET", "/healthz", {})
# A first start may have to bring a large database to the newest schema, and copies it before.
FIRST_START_SECS_MAX = 600
START_SECS_MAX = 30
# A tenth of the idle timeout, the longest that is allowed: no use is recorded within a run.
NEVER_TOUCHED = {"sessions__touch_interval_secs": 60_480}
# Caches fill, and the first uses are recorded.
WARM_SECS = 4
TOUCH_ROUNDS = 2
SATURATING_ROUNDS = 2
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
            tokens = talking.ask_each(server.port, requests, talking.token_in_body, SEEDING_CONNECTIONS)
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
    text = (
        f"{in_mb(first['resident'])}, after {bench.sizes.rest_secs} s {in_mb(later['resident'])} "
        f"({in_mb(later['anonymous'])} without files)"
    )
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


# Touches.


def touches(bench: Alone) -> Iterator[Figure]:
    """The same requests to two servers in turns. One records uses as it does by default, the other is told an interval in which
    nothing comes due. A round is longer than the first one's interval, and as long is between two of its rounds: each session is
    recorded as a round begins and once more before it ends."""
    seeded, interval, secs = bench.seeded(), bench.sizes.touch_interval_secs, bench.sizes.touch_secs
    requests = bench.checks("touches", seeded.tokens)
    settings = {"on": {"sessions__touch_interval_secs": interval}, "off": NEVER_TOUCHED}
    pair = {
        name: bench.servers.sessiond(f"touches-{name}", bench.copy_of(seeded, f"touches-{name}"), **CACHE, **setting)
        for name, setting in settings.items()
    }
    for server in pair.values():
        bench.round(server, requests, WARM_SECS)
        server.settle()
    found: dict[str, list[tuple[load.Round, float]]] = {name: [] for name in pair}
    for _ in range(TOUCH_ROUNDS):
        for name, server in pair.items():
            before = server.cpu_ticks()
            one = bench.round(server, requests, secs)
            server.settle()
            found[name].append((one, (server.cpu_ticks() - before) / machine.TICKS_PER_SEC))
    rate = {name: median(one.rate for one, _ in rounds) for name, rounds in found.items()}
    cpu = {
        name: 100_000 * sum(secs for _, secs in rounds) / sum(one.requests for one, _ in rounds) for name, rounds in found.items()
    }
    ratio = rate["on"] / rate["off"]
    text = (
        f"{ratio:.3f} ({rate['on']:,.0f}/s with, {rate['off']:,.0f}/s without); CPU {cpu['on'] / cpu['off']:.3f} "
        f"({cpu['on']:.3f} s and {cpu['off']:.3f} s for 100,000)"
    )
    numbers = {name: [{**asdict(one), "cpu_secs": secs} for one, secs in rounds] for name, rounds in found.items()}
    what = f"checks of {len(seeded.tokens):,} sessions with touches every {interval} s, to those without"
    yield Figure(what, "≥ 0.93", text, ratio >= 0.93, numbers)


# The sweep.


def sweep(bench: Alone) -> Iterator[Figure]:
    """Checks at half of what saturates: before a deadline that nearly all of a million sessions have in common, while these are
    written down as ended, and afterwards."""
    what, target = "sweep: p99 of checks while it runs, to before and after", "< 1.2"
    large = bench.databases / "scale-1000000.db"
    if not large.exists():
        bench.notes.append("The sweep is measured on a database made by `benches/scale.sh 1000000`, which was not run.")
        yield Figure(what, target, "not measured", None)
        return
    database = copied(large, bench.folder / "sweep.db")
    first_start(bench, database)
    tokens = scale.tokens_beside(large).read_text().split()
    tokens = tokens[:: max(len(tokens) // KEPT_ACTIVE, 1)][:KEPT_ACTIVE]
    deadline = time.time() + bench.sizes.sweep_lead_secs
    expiring = set_deadline(database, tokens, int(deadline * 1000), bench.sizes.expiring)
    server = bench.servers.sessiond("sweep", database, **CACHE)
    requests = bench.checks("sweep", tokens)
    half = bench.round(server, requests, WARM_SECS).rate / 2

    def one_round() -> load.PacedRound:
        return bench.paced_round(server, [Stream(requests, half, 200)])[0]

    before, during, after = [], [], []
    round_secs = bench.sizes.load_secs + 1
    while len(before) < bench.sizes.sweep_rounds and time.time() + round_secs < deadline:
        before.append(one_round())
    if not before:
        raise load.WrongAnswer("the machine was too slow: the deadline of the sweep came before anything was measured")
    # The sweeper comes by once a second.
    time.sleep(max(deadline - time.time(), 0) + 1)
    latest = deadline + SWEEP_SECS_MAX
    while time.time() < latest and is_sweeping(database, int(deadline * 1000)):
        during.append(one_round())
    # The last one was in part after it.
    during = during[:-1] or during
    server.settle()
    is_over = time.time() < latest
    if is_over:
        after = [one_round() for _ in range(bench.sizes.sweep_rounds)]
    server.stop()
    count, secs = swept(database, deadline)
    if not during or not count or (is_over and count != expiring):
        raise load.WrongAnswer(f"{count:,} of {expiring:,} sessions were written down as ended")
    quiet = median(one.p99_ms for one in before + after)
    busy = median(one.p99_ms for one in during)
    text = (
        f"{busy / quiet:.2f} ({in_three_digits(quiet)} ms, then {in_three_digits(busy)} ms, medians of {len(before + after)} and "
        f"{len(during)} rounds; {half:,.0f} checks/s)"
    )
    numbers = {name: list(map(asdict, part)) for name, part in (("before", before), ("during", during), ("after", after))}
    yield Figure(what, target, text, busy / quiet < 1.2, numbers)
    text = f"{secs:.0f} s, {count / secs:,.0f}/s" + ("" if is_over else f"; stopped then, with {count:,} done")
    yield Figure(f"sweep of {expiring:,} sessions", "", text, None, {"secs": secs, "sessions": count})


def set_deadline(database: Path, kept: list[str], deadline: int, most: int) -> int:
    """Gives sessions, but not those kept, a pause after which they expire all at once. How many they are."""
    ids = [(base64.urlsafe_b64decode(token.removeprefix("sst_"))[:16],) for token in kept]
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -262144")
        connection.execute("BEGIN")
        connection.execute("CREATE TEMP TABLE kept (id BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID")
        connection.executemany("INSERT INTO kept VALUES (?)", ids)
        done = connection.execute(
            "UPDATE sessions SET idle_timeout = ?1 - last_activity_at, expires_at = ?1, sweep_at = ?1 WHERE rowid IN"
            " (SELECT rowid FROM sessions WHERE ended_at IS NULL AND id NOT IN (SELECT id FROM kept) LIMIT ?2)",
            (deadline, most),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return done.rowcount


def is_sweeping(database: Path, deadline: int) -> bool:
    """Whether a session is left whose deadline has passed and that is not written down as ended."""
    left = "SELECT EXISTS (SELECT 1 FROM sessions WHERE ended_at IS NULL AND sweep_at <= ?1 AND expires_at <= ?1)"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute(left, (deadline,)).fetchone()[0])


def swept(database: Path, deadline: float) -> tuple[int, float]:
    """How many sessions expired, and how long after the deadline the last of them was written down."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT count(*), max(recorded_at) FROM events WHERE type = 'session.expired'").fetchone()
    count, last = found
    return count, (last or 0) / 1000 - deadline


# Latency at a rate.


def half_load(bench: Alone) -> Iterator[Figure]:
    """Checks and creations come at random moments, at a part of the rates that wrk reaches with 64 connections. Times begin when
    a request is due."""
    seeded = bench.seeded()
    server = bench.servers.sessiond("half", bench.copy_of(seeded, "half"), **CACHE, **UNLIMITED)
    checks = bench.checks("half-checks", seeded.tokens)
    users = (f"user-{scale.hash_of(f'{number}') % 1_000_000}" for number in range(USERS_AT_RANDOM))
    creates = load.one_kind(bench.folder / "requests" / "half-creates", [scale.sign_in(seeded.key, user) for user in users])
    bench.round(server, checks, WARM_SECS)
    most_checks = median(bench.round(server, checks, bench.sizes.load_secs).rate for _ in range(SATURATING_ROUNDS))
    most_creates = median(bench.round(server, creates, bench.sizes.load_secs).rate for _ in range(SATURATING_ROUNDS))
    server.settle()
    half_checks, quarter_checks = Stream(checks, most_checks / 2, 200), Stream(checks, most_checks / 4, 200)
    half_creates, quarter_creates = Stream(creates, most_creates / 2, 201), Stream(creates, most_creates / 4, 201)
    # What the machine itself needs: as many requests, of a call that looks at nothing.
    nothing = Stream(load.one_kind(bench.folder / "requests" / "half-nothing", [HEALTH]), most_checks / 2, 200)
    # One core cannot do more than the whole of both together.
    mixes = {
        "half": [half_checks],
        "floor": [nothing],
        "quarters": [quarter_checks, quarter_creates],
        "halves": [half_checks, half_creates],
    }
    found: dict[str, list[list[load.PacedRound]]] = {name: [] for name in mixes}
    ticks = dict.fromkeys(mixes, 0)
    for _ in range(bench.sizes.load_rounds):
        for name, asked in mixes.items():
            before = server.cpu_ticks()
            found[name].append(bench.paced_round(server, asked))
            server.settle()
            ticks[name] += server.cpu_ticks() - before
    measured_secs = bench.sizes.load_rounds * bench.sizes.load_secs
    shares = {name: count / machine.TICKS_PER_SEC / measured_secs for name, count in ticks.items()}
    texts = {
        "half": ("check, p99 at half the saturating load", "< 1 ms", 1.0),
        "floor": ("the same for as many `GET /healthz`, which looks at nothing", "", None),
        "halves": ("check, p99 at half, while creations run at half of theirs", "< 2 ms", 2.0),
        "quarters": ("check, p99 at a quarter, while creations run at a quarter of theirs", "", None),
    }
    for name, (what, target, limit) in texts.items():
        yield latency_figure(what, target, limit, found[name], shares[name])


def latency_figure(what: str, target: str, limit: float | None, rounds: list[list[load.PacedRound]], share: float) -> Figure:
    of_checks = [one[0] for one in rounds]
    of_creates = [one[1] for one in rounds if len(one) > 1]
    p99 = median(one.p99_ms for one in of_checks)
    late = median(one.late_p99_ms for one in of_checks)
    rate = f"{median(one.rate for one in of_checks):,.0f}/s"
    text = f"{in_three_digits(p99)} ms (p50 {in_three_digits(median(one.p50_ms for one in of_checks))}; {rate}"
    if of_creates:
        text += (
            f" and {median(one.rate for one in of_creates):,.0f} creations/s, whose p99 is "
            f"{in_three_digits(median(one.p99_ms for one in of_creates))} ms"
        )
    text += f"; the server's core {share:.0%} busy; p99 of the generator's own delay {in_three_digits(late)} ms)"
    numbers = {"cpu_share": share, "rounds": [list(map(asdict, one)) for one in rounds]}
    return Figure(what, target, text, None if limit is None else p99 < limit, numbers)


# Each with the name that it is chosen by.
MEASURES: dict[str, tuple[str, Callable[[Alone], Iterator[Figure]]]] = {
    "binary": ("The binary", binary),
    "start": ("Starts", starts),
    "memory": ("Memory", memory),
    "disk": ("Disk", disk),
    "streams": ("Idle streams", streams),
    "touches": ("Touches", touches),
    "sweep": ("The sweep", sweep),
    "half-load": ("Checks at half the saturating load", half_load),
}
