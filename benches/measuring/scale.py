"""Makes databases with very many sessions, quickly: rows like one that sessiond wrote, into a file that sessiond made.

Some sessions, spread evenly over the table, have tokens that are known; of all others nobody knows a token. Users have five
sessions each. There are no events, as if they had been purged. Deadlines are 400 days away.
"""

import argparse
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import load, servers, talking

SESSIONS_PER_USER = 5
KNOWN_MAX = 100_000
# What one session takes with its indexes, and as much again of a third while those are made.
BYTES_PER_SESSION = 800
WEEK_MS = 7 * 86_400_000
DAYS_400_MS = 400 * 86_400_000
SECS_MAX = 1_800
BATCH = 20_000
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class TooLong(Exception):
    """The time is up."""


def tokens_beside(database: Path) -> Path:
    """The file with the tokens that are known, one in a line."""
    return database.with_suffix(".tokens")


def make_database(sessiond: Path, database: Path, sessions: int, known: int, secs_max: int = SECS_MAX) -> None:
    """Makes the database and the file of tokens beside it, both under other names until they are complete."""
    database.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(database.parent).free
    if free < sessions * BYTES_PER_SESSION + 2**30:
        raise SystemExit(f"{sessions:,} sessions may need {sessions * BYTES_PER_SESSION / 2**30:.1f} GiB and one more to spare.")
    with tempfile.TemporaryDirectory(dir=database.parent, prefix="making-") as folder:
        unfinished = Path(folder) / "s.db"
        # Indexes are sorted in files: on this disk, whose room was looked at.
        os.environ["SQLITE_TMPDIR"] = folder
        first_session(sessiond, unfinished)
        tokens = fill(unfinished, sessions, known, time.monotonic() + secs_max)
        tokens_beside(unfinished).write_text("".join(f"{token}\n" for token in tokens))
        for old in database.parent.glob(f"{database.name}*"):
            old.unlink()
        tokens_beside(unfinished).rename(tokens_beside(database))
        unfinished.with_name("s.db.key").rename(database.with_name(f"{database.name}.key"))
        unfinished.rename(database)


def first_session(sessiond: Path, database: Path) -> None:
    """A database with one session, made by sessiond."""
    key = api_key(sessiond, database)
    port = servers.free_port()
    command = [str(sessiond), "serve", "--listen", f"127.0.0.1:{port}", "--database", str(database)]
    with database.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        servers.wait_for(lambda: servers.is_listening(port), process, database.with_suffix(".log"))
        status, _, body = talking.ask(port, sign_in(key, "user-0"))
        assert status == 201, body
    finally:
        servers.stop_process(process)


def api_key(sessiond: Path, database: Path) -> str:
    """A new API key in a database, which is made if it is not there."""
    command = [str(sessiond), "keys", "create", "bench", "--database", str(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def sign_in(key: str, user: str, user_agent: str = USER_AGENT) -> bytes:
    """A request that starts a session of a user."""
    body = f'{{"user_id":"{user}","user_agent":"{user_agent}","ip_address":"194.25.2.{hash_of(user) % 250}"}}'
    return load.request("POST", "/v1/sessions", {"Authorization": f"Bearer {key}"}, body)


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def fill(database: Path, sessions: int, known: int, deadline: float) -> list[str]:
    """Replaces the one session by as many as are wanted; the indexes are made afterwards, which is quicker."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        # A file that is half made is thrown away, so nothing need be safe.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1_000_000)
        session, device = template(connection, "sessions"), template(connection, "user_devices")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'sessions' AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("BEGIN")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for table in ("sessions", "events", "user_devices"):
            connection.execute(f"DELETE FROM {table}")
        tokens: list[str] = []
        for part in in_parts(session_rows(session, sessions, known, tokens)):
            if time.monotonic() > deadline:
                raise TooLong(f"{sessions:,} sessions took longer than was allowed")
            insert(connection, "sessions", session, part)
        for part in in_parts(device_rows(device, sessions)):
            insert(connection, "user_devices", device, part)
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    return tokens


def template(connection: sqlite3.Connection, table: str) -> dict[str, object]:
    """The only row of a table, by the names of its columns."""
    cursor = connection.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    (row,) = cursor.fetchall()
    return dict(zip(names, row, strict=True))


def session_rows(session: dict[str, object], sessions: int, known: int, tokens: list[str]) -> Iterator[tuple]:
    """The rows of all sessions, oldest first; the tokens that are known are added to `tokens`."""
    end = int(time.time() * 1000)
    begin = end - WEEK_MS
    names = list(session)
    place = {name: names.index(name) for name in names}
    row = list(session.values())
    row[place["idle_timeout"]] = DAYS_400_MS
    users = max(sessions // SESSIONS_PER_USER, 1)
    every = max(sessions // known, 1)
    moments = ("created_at", "signed_in_at", "authenticated_at", "last_activity_at")
    deadlines = ("absolute_expires_at", "expires_at", "sweep_at")
    for number in range(sessions):
        at = begin + number * WEEK_MS // sessions
        random = os.urandom(42)
        session_id = uuid7(at, number, random[:7])
        row[place["id"]] = session_id
        if number % every == 0 and len(tokens) < known:
            tokens.append("sst_" + base64.urlsafe_b64encode(session_id + random[10:]).decode())
            row[place["token_hash"]] = hashlib.sha256(random[10:]).digest()
        else:
            row[place["token_hash"]] = random[10:]
        row[place["user_id"]] = f"user-{number * 7_919 % users}"
        for name in moments:
            row[place[name]] = at
        for name in deadlines:
            row[place[name]] = at + DAYS_400_MS
        yield tuple(row)


def uuid7(at: int, number: int, random: bytes) -> bytes:
    """A UUIDv7 (RFC 9562). It grows with the number within a millisecond, of which there are fewer than 4,096."""
    return at.to_bytes(6, "big") + (0x7000 | number & 0xFFF).to_bytes(2, "big") + bytes([0x80 | random[0] & 63]) + random[:7]


def device_rows(device: dict[str, object], sessions: int) -> Iterator[tuple]:
    """What each user signed in with, in the order of the table."""
    users = max(sessions // SESSIONS_PER_USER, 1)
    for user in sorted(f"user-{number}" for number in range(users)):
        yield tuple({**device, "user_id": user}.values())


def in_parts(rows: Iterator[tuple]) -> Iterator[list[tuple]]:
    part: list[tuple] = []
    for row in rows:
        part.append(row)
        if len(part) == BATCH:
            yield part
            part = []
    yield part


def insert(connection: sqlite3.Connection, table: str, columns: dict[str, object], rows: list[tuple]) -> None:
    marks = ", ".join("?" for _ in columns)
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/scale.sh", description=__doc__.partition("\n")[0])
    # A signal leaves through here, so that what is half made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    parser.add_argument("sessions", type=int, nargs="?", default=10_000_000, help="how many; 10,000,000 unless told")
    parser.add_argument("--sessiond", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not 1 <= chosen.sessions <= 50_000_000:
        parser.error("from 1 to 50,000,000 sessions")
    if sqlite3.sqlite_version_info < (3, 37):
        raise SystemExit("Python's SQLite is older than 3.37 and knows no STRICT tables.")
    database = chosen.folder / f"scale-{chosen.sessions}.db"
    began = time.monotonic()
    try:
        make_database(chosen.sessiond, database, chosen.sessions, min(chosen.sessions, KNOWN_MAX))
    except (TooLong, sqlite3.OperationalError) as error:
        raise SystemExit(f"benches/scale.sh: FAILED: {error}") from None
    size = database.stat().st_size
    secs = time.monotonic() - began
    print(
        f"{database}: {chosen.sessions:,} sessions, {size / 2**20:,.0f} MiB, {size / chosen.sessions:.0f} bytes each, {secs:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
