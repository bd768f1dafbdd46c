"""What is measured: pieces of work, each a table, each with a row for every server that can do it."""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import load, machine, scale, talking
from .load import Requests
from .servers import Server, Servers

SESSIOND = "sessiond"
CEILING = "actix-web, fixed answer (the ceiling)"
WEBDIS = "webdis + Redis"
ACTIX = "actix-session + Redis"
TOWER = "tower-sessions + SQLite"
EXPRESS_REDIS = "express-session + Redis"
EXPRESS_SQLITE = "express-session + better-sqlite3"
STARLETTE = "Starlette + Redis over SQLite"
ALWAYS = ", appendfsync always"
FULL = ", synchronous FULL"

WORKS = ("check", "uncached", "create", "create-one", "revoke", "mixed")

# So that all seeded sessions are in memory: with exactly as many places, some of the cache's shards would have too few.
CACHE = {"cache__capacity": 200_000}
# Each round records a use of every session, whatever was recorded in the round before; the default of 60 s records fewer.
TOUCHES = {"sessions__touch_interval_secs": 10}
NO_CACHE = {"cache__capacity": 1, "cache__bytes_max": 2**20}
# So that a plain creation meets no limit, however often a user comes.
UNLIMITED = {"sessions__default_tier": "pro"}
# Five sessions, as many as each seeded user has.
AT_LIMIT = {"sessions__default_tier": "plus"}
USERS_AT_RANDOM = 100_000


@dataclass
class Sizes:
    """How much is seeded and how long is measured."""

    sessions: int
    rounds: int
    secs: int
    revocations: int
    # Whether the peers that were slow at checks also create.
    is_complete: bool


@dataclass
class Row:
    """One server at one piece of work."""

    label: str
    server: Server
    requests: Requests
    expected: int
    # One for each round, where a request can be sent only once.
    by_round: list[Requests] = field(default_factory=list)
    connections: int = 64
    warm_secs: int = 1
    # What the answer that is looked at must have in it.
    shows: bytes = b""

    def requests_of(self, number: int) -> Requests:
        return self.by_round[number] if self.by_round else self.requests


@dataclass
class Work:
    """One table."""

    name: str
    title: str
    explanation: str
    rows: list[Row]
    has_ceiling: bool = False


@dataclass
class System:
    """How one kind of server is talked to, and the credentials of its seeded sessions."""

    label: str
    create: Callable[[str], bytes]
    headers: Callable[[str], dict[str, str]]
    path: str
    credential: Callable[[bytes, bytes], str]
    credentials: list[str] = field(default_factory=list)

    def check(self, credential: str) -> bytes:
        return load.request("GET", self.path, self.headers(credential))

    def revoke(self, credential: str) -> bytes:
        return load.request("DELETE", self.path, self.headers(credential))

    def seed(self, server: Server, sessions: int) -> None:
        users = [f"user-{number % max(sessions // scale.SESSIONS_PER_USER, 1)}" for number in range(sessions)]
        self.credentials = talking.ask_each(server.port, list(map(self.create, users)), self.credential)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def cookie(name_and_value: str) -> dict[str, str]:
    return {"Cookie": name_and_value}


def plain_create(user: str) -> bytes:
    """A sign-in at a peer: the body that sessiond gets, too."""
    body = f'{{"user_id":"{user}","user_agent":"{scale.USER_AGENT}","ip_address":"194.25.2.{scale.hash_of(user) % 250}"}}'
    return load.request("POST", "/session", {}, body)


class Bench:
    """The servers of a run with their seeded sessions, and the works that are measured with them."""

    def __init__(self, servers: Servers, sizes: Sizes, databases: Path) -> None:
        self.servers = servers
        self.sizes = sizes
        self.databases = databases
        self.folder = servers.folder
        self.notes: list[str] = []
        self.systems: dict[str, System] = {}
        self.seeded = self.folder / "seeded.db"
        self.key = ""
        self.volatile: dict[str, Server] = {}
        self.changing: dict[str, Server] = {}
        self.checks = dict(zip(WORKS[:2], (self.cached_checks, self.uncached_checks), strict=True))
        changes = (self.creations, self.creations_of_one_client, self.revocations, self.mixed)
        self.changes = dict(zip(WORKS[2:], changes, strict=True))

    def has(self, label: str) -> bool:
        return label not in self.servers.programs.missing

    def seed(self, tell: Callable[[str], None]) -> None:
        """Signs everybody in at every server, over HTTP. Nobody measures it: they have all cores, and no disk is waited for where
        that can be had."""
        servers, folder = self.servers, self.folder
        self.key = scale.api_key(servers.programs.sessiond, self.seeded)
        cookies = (plain_create, cookie, "/session", talking.cookie_in_head)
        sessiond = System(SESSIOND, lambda user: scale.sign_in(self.key, user), bearer, "/v1/session", talking.token_in_body)
        seeding = [(sessiond, servers.sessiond("seeding", self.seeded, **UNLIMITED))]
        if self.has(ACTIX):
            self.volatile[ACTIX] = servers.actix_session("actix-session", servers.redis("actix-session"))
            seeding.append((System(ACTIX, *cookies), self.volatile[ACTIX]))
        if self.has(EXPRESS_REDIS):
            self.volatile[EXPRESS_REDIS] = servers.express_redis("express-redis", servers.redis("express-redis"))
            seeding.append((System(EXPRESS_REDIS, *cookies), self.volatile[EXPRESS_REDIS]))
        if self.has(TOWER):
            tower = servers.tower_sessions("tower-seeding", folder / "tower.db", "off")
            seeding.append((System(TOWER, *cookies), tower))
        if self.has(EXPRESS_SQLITE):
            express = servers.express_sqlite("express-sqlite-seeding", folder / "express.db", "off")
            seeding.append((System(EXPRESS_SQLITE, *cookies), express))
        if self.has(STARLETTE):
            self.starlette_cache = servers.redis("starlette")
            starlette = servers.starlette("starlette-seeding", folder / "starlette.db", "off", self.starlette_cache)
            starlette.helpers.clear()
            system = System(STARLETTE, plain_create, bearer, "/session", talking.token_in_body)
            seeding.append((system, starlette))
        tell(f"seeding {self.sizes.sessions:,} sessions at {len(seeding)} servers")
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda pair: pair[0].seed(pair[1], self.sizes.sessions), seeding))
        for system, server in seeding:
            self.systems[system.label] = system
            if system.label not in self.volatile:
                server.stop()
        servers.pin()

    def seeded_copy(self, name: str) -> Path:
        return copied(self.seeded, self.folder / f"{name}.db")

    def list_file(self, *words: object) -> Path:
        name = "-".join(re.sub(r"\W+", "-", str(word)).strip("-").lower() for word in words)
        return self.folder / "requests" / name

    # Checks.

    def cached_checks(self) -> Work:
        system = self.systems[SESSIOND]
        server = self.servers.sessiond("checks", self.seeded_copy("checks"), **CACHE)
        rows = [self.check_row(SESSIOND, server, self.untouching(system, "GET"), 4)]
        self.answer = talking.ask(server.port, rows[0].requests.first)[2].decode()
        if self.has(CEILING):
            rows.append(self.check_row(CEILING, self.servers.ceiling(), self.checks_of(system)))
        rows += self.peer_checks()
        rows.append(self.check_row("sessiond, HEAD (no body)", server, self.untouching(system, "HEAD"), 4))
        touched = self.servers.sessiond("touched", self.seeded_copy("touched"), **CACHE, **TOUCHES)
        rows.append(self.check_row("sessiond, a use of each session recorded in each round", touched, self.checks_of(system), 4))
        explanation = (
            f"Each request has another of {self.sizes.sessions:,} sessions, the answer is its JSON, about 850 bytes. sessiond is asked "
            "with `?touch=false`, which records no use, as the peers record none but express-session, which touches its store at each "
            "request: that is its default. In the last row sessiond records and writes a use of every session in every round "
            "(touch_interval_secs = 10; by default it records one a minute). webdis only fetches a value."
        )
        return Work("check", "Check a session", explanation, rows, has_ceiling=True)

    def untouching(self, system: System, method: str) -> Requests:
        """Checks that record no use."""
        path = f"{system.path}?touch=false"
        requests = [load.request(method, path, bearer(token)) for token in system.credentials]
        return load.one_kind(self.list_file("untouched", method), requests)

    def check_row(self, label: str, server: Server, requests: Requests, warm_secs: int = 1) -> Row:
        is_head = requests.first.startswith(b"HEAD")
        return Row(
            label, server, requests, 200, warm_secs=warm_secs, shows=b"" if is_head else b'"device_info":"Firefox on Linux"'
        )

    def checks_of(self, system: System) -> Requests:
        return load.one_kind(self.list_file("check", system.label), list(map(system.check, system.credentials)))

    def peer_checks(self) -> list[Row]:
        rows = []
        if self.has(WEBDIS):
            rows.append(self.webdis_row())
        for label in (ACTIX, TOWER, EXPRESS_REDIS, EXPRESS_SQLITE, STARLETTE):
            if self.has(label):
                rows.append(self.check_row(label, self.peer(label), self.checks_of(self.systems[label])))
        return rows

    def peer(self, label: str) -> Server:
        """A peer as it checks: Redis without persistence, SQLite as for everything else."""
        servers, folder = self.servers, self.folder
        if label in self.volatile:
            return self.volatile[label]
        if label == TOWER:
            return servers.tower_sessions("tower", folder / "tower.db", "full")
        if label == EXPRESS_SQLITE:
            return servers.express_sqlite("express-sqlite", folder / "express.db", "full")
        return servers.starlette("starlette", folder / "starlette.db", "full", self.starlette_cache)

    def webdis_row(self) -> Row:
        """The values are what a check of sessiond answers."""
        redis = self.servers.redis("webdis")
        numbers = range(self.sizes.sessions)
        for start in range(0, self.sizes.sessions, 1_000):
            talking.redis(redis.port, *(("SET", f"session:{number}", self.answer) for number in numbers[start : start + 1_000]))
        requests = [load.request("GET", f"/GET/session:{number}.txt", {}) for number in numbers]
        return self.check_row(WEBDIS, self.servers.webdis(redis), load.one_kind(self.list_file("webdis"), requests))

    def uncached_checks(self) -> Work:
        """With a cache for one session, so that nearly every check reads a row."""
        rows = []
        small = self.folder / "scale-10000.db"
        scale.make_database(self.servers.programs.sessiond, small, 10_000, 10_000)
        for sessions in (10_000, 1_000_000, 10_000_000):
            database = small if sessions == 10_000 else self.databases / f"scale-{sessions}.db"
            if not database.exists():
                self.notes.append(
                    f"Uncached checks with {sessions:,} sessions: made by `benches/scale.sh {sessions}`, which was not run."
                )
                continue
            tokens = scale.tokens_beside(database).read_text().split()
            requests = [load.request("GET", "/v1/session?touch=false", bearer(token)) for token in tokens]
            machine.read_through(database)
            server = self.servers.sessiond(f"uncached-{sessions}", database, **NO_CACHE)
            label = f"sessiond, {sessions:,} sessions in the database"
            rows.append(self.check_row(label, server, load.one_kind(self.list_file("uncached", sessions), requests), 2))
        explanation = (
            "The cache holds one session, so that each check reads its row; 10,000 sessions or 100,000 of more are asked for. "
            "`?touch=false`, so that the databases stay as they are. Each file was read through before, so that the system has it in "
            "memory as far as that goes: what is measured is not the disk."
        )
        return Work("uncached", "Check a session that is not in memory", explanation, rows)

    # Changes.

    def begin_changes(self) -> None:
        """Stops the servers of the checks, keeps what their volatile Redis held, and starts those that make changes: the same
        for all the works, one after the other."""
        for server in self.volatile.values():
            talking.redis(server.helpers[0].port, ("SAVE",))
        self.servers.stop_all()
        self.volatile.clear()
        self.changing = self.changing_servers()
        if not self.sizes.is_complete:
            self.notes.append(f"A quick run does not measure changes with {EXPRESS_SQLITE} and {STARLETTE}.")

    def changing_servers(self) -> dict[str, Server]:
        servers = self.servers
        found = {SESSIOND: servers.sessiond("changes", self.seeded_copy("changes"), **CACHE, **UNLIMITED)}
        if self.has(ACTIX):
            redis = servers.redis("actix-durable", self.snapshot(ACTIX), is_durable=True)
            found[ACTIX + ALWAYS] = servers.actix_session("actix-durable", redis)
        if self.has(TOWER):
            found[TOWER + FULL] = self.peer(TOWER)
        if self.has(EXPRESS_REDIS):
            redis = servers.redis("express-durable", self.snapshot(EXPRESS_REDIS), is_durable=True)
            found[EXPRESS_REDIS + ALWAYS] = servers.express_redis("express-durable", redis)
        if self.has(EXPRESS_SQLITE) and self.sizes.is_complete:
            found[EXPRESS_SQLITE + FULL] = self.peer(EXPRESS_SQLITE)
        if self.has(STARLETTE) and self.sizes.is_complete:
            self.starlette_cache = servers.redis("starlette-changing")
            found[STARLETTE + FULL] = self.peer(STARLETTE)
        return found

    def snapshot(self, label: str) -> Path:
        name = {ACTIX: "actix-session", EXPRESS_REDIS: "express-redis"}[label]
        return self.folder / f"{name}-redis" / "dump.rdb"

    def system_of(self, label: str) -> System:
        return self.systems[label.removesuffix(ALWAYS).removesuffix(FULL)]

    def creates_of(self, system: System) -> Requests:
        users = (f"user-{scale.hash_of(f'{number}') % 1_000_000}" for number in range(USERS_AT_RANDOM))
        return load.one_kind(self.list_file("create", system.label), list(map(system.create, users)))

    def creations(self) -> Work:
        rows = []
        for label, server in self.changing.items():
            rows.append(Row(label, server, self.creates_of(self.system_of(label)), 201))
        system = self.systems[SESSIOND]
        users = self.sizes.sessions // scale.SESSIONS_PER_USER
        at_limit = load.one_kind(self.list_file("evict"), [system.create(f"user-{number}") for number in range(users)])
        evicting = self.servers.sessiond("evicting", self.seeded_copy("evicting"), **CACHE, **AT_LIMIT)
        rows.append(Row("sessiond, each evicting one of 5", evicting, at_limit, 201, shows=b'"evicted":[{'))
        large = self.databases / "scale-1000000.db"
        if large.exists():
            rows.append(self.creations_in(large))
        explanation = (
            "Answered when the session would survive a power loss. Random users. sessiond also finds out device and place, keeps the "
            "user's limit and writes an event row in the same transaction; the peers store the session and nothing else. Only the "
            "Redis of the first check table is volatile: here it runs with `appendfsync always`."
        )
        return Work("create", "Create a session, durable", explanation, rows)

    def creations_in(self, large: Path) -> Row:
        """On a database of a million sessions, copied, as it grows."""
        database = copied(large, self.folder / "million.db")
        key = scale.api_key(self.servers.programs.sessiond, database)
        system = System("sessiond-million", lambda user: scale.sign_in(key, user), bearer, "", talking.token_in_body)
        server = self.servers.sessiond("million", database, **CACHE, **UNLIMITED)
        return Row("sessiond, 1,000,000 sessions in the database", server, self.creates_of(system), 201)

    def creations_of_one_client(self) -> Work:
        labels = (SESSIOND, ACTIX + ALWAYS, TOWER + FULL)
        rows = [
            Row(label, self.changing[label], self.creates_of(self.system_of(label)), 201, connections=1)
            for label in labels
            if label in self.changing
        ]
        explanation = "One connection, one request at a time: nothing can share a commit."
        return Work("create-one", "Create a session, durable, one client", explanation, rows)

    def revocations(self) -> Work:
        labels = (SESSIOND, ACTIX + ALWAYS, TOWER + FULL, EXPRESS_REDIS + ALWAYS)
        rows = [self.revoking(label) for label in labels if label in self.changing]
        explanation = (
            "Each request ends another session, with that session's own token or cookie, until a round's sessions are used up or its "
            "time is over. sessiond keeps the row, with reason, actor and time, and writes an event; the peers delete."
        )
        return Work("revoke", "Revoke a session, durable", explanation, rows)

    def revoking(self, label: str) -> Row:
        system = self.system_of(label)
        if label == SESSIOND:
            # It ends more of them in a round than were seeded for all rounds.
            database = self.folder / "revoking.db"
            wanted = self.sizes.revocations * (self.sizes.rounds + 1)
            scale.make_database(self.servers.programs.sessiond, database, wanted, wanted)
            credentials = scale.tokens_beside(database).read_text().split()
            server = self.servers.sessiond("revoking", database, **CACHE)
        else:
            credentials, server = self.part(system, 0.0, 0.4), self.changing[label]
        parts = in_equal_parts(credentials, self.sizes.rounds + 1)
        kinds = [self.once(["revoke", label, number], list(map(system.revoke, part))) for number, part in enumerate(parts)]
        return Row(label, server, kinds[-1], 204, by_round=kinds[:-1])

    def mixed(self) -> Work:
        labels = (SESSIOND, ACTIX + ALWAYS, TOWER + FULL, EXPRESS_REDIS + ALWAYS)
        rows = [self.mixing(label) for label in labels if label in self.changing]
        explanation = "Changes are durable: while one waits for the disk, its connection asks nothing else."
        return Work("mixed", "90 % checks, 8 % creations, 2 % revocations", explanation, rows)

    def mixing(self, label: str) -> Row:
        system, server = self.system_of(label), self.changing[label]
        checked = load.write_list(self.list_file("mixed-check", label), list(map(system.check, self.part(system, 0.4, 0.8))))
        created = self.creates_of(system)
        kinds = []
        for number, part in enumerate(in_equal_parts(self.part(system, 0.8, 1.0), self.sizes.rounds + 1)):
            revoked = self.once(["mixed-revoke", label, number], list(map(system.revoke, part)))
            kinds.append(Requests([checked, *created.files, *revoked.files], [45, 4, 1], revoked.first))
        # The first question ends a session, so that its answer has no body.
        return Row(label, server, kinds[-1], 204, by_round=kinds[:-1])

    def part(self, system: System, begin: float, end: float) -> list[str]:
        """Some of the seeded sessions, so that each work has its own."""
        count = len(system.credentials)
        return system.credentials[int(count * begin) : int(count * end)]

    def once(self, words: list[object], requests: list[bytes]) -> Requests:
        """A list whose requests are sent once. The first is apart: it is what the server is asked before."""
        file = self.list_file(*words)
        return Requests([load.write_list(file.with_name(f"{file.name}.once"), requests[1:])], [1], requests[0])


def in_equal_parts(items: list[str], count: int) -> list[list[str]]:
    length = len(items) // count
    return [items[number * length : (number + 1) * length] for number in range(count)]


def copied(database: Path, to: Path) -> Path:
    """A copy of a database that no server has open, with its key file, and its log if there is something in it."""
    for suffix in ("", ".key", "-wal"):
        file = database.with_name(database.name + suffix)
        if file.exists():
            shutil.copy(file, to.with_name(to.name + suffix))
    return to
