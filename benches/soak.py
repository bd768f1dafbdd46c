#!/usr/bin/env python3
"""One server under steady load for half an hour. benches/soak.sh builds what this needs."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from measuring import load, machine, report, scale, talking
from measuring.load import Requests, Stream
from measuring.servers import Programs, Server, Servers, wait_until
from measuring.works import bearer

MB = 1_000_000
# Caches fill, the first sessions expire, and the first rows are old enough to be deleted: then it is as it will be.
SETTLING_SECS = 300
SATURATING_SECS = 5
CHECKED = 20_000
# So few that some come to their limit, and evict.
USERS = 2_000
SHORT_IDLE_SECS = 60
RETENTION_SECS = 120
BACKUP_SECS = 60
# Each with a backup in it: checks are slower beside one, and half of shorter rounds would have none.
ROUND_SECS = BACKUP_SECS
BACKUPS_KEPT = 3
# Half of the core: a quarter for checks, and a quarter for creations, each of which is also ended, told of, copied and deleted, which
# costs once or twice as much again. With a fifth of the creations' rate the core was 83 % busy, and p99 went by the host's whims.
CHECKS_SHARE, CREATIONS_SHARE, ENDINGS_SHARE = 1 / 4, 1 / 10, 1 / 400
MEMORY_GROWTH_MAX = 1.05
P99_GROWTH_MAX = 1.25
SETTINGS = {
    "sessions__retention_secs": RETENTION_SECS,
    "webhooks__allow_private": "true",
    "backup__every_secs": BACKUP_SECS,
    "backup__keep": BACKUPS_KEPT,
}


@dataclass
class Sample:
    """What one round showed, what the machine took from it, and how large everything was after it."""

    secs: float
    check_p50_ms: float
    check_p99_ms: float
    creation_p99_ms: float
    ending_p99_ms: float
    late_p99_ms: float
    cpu_share: float
    stolen_ms: float
    resident: int
    anonymous: int
    database: int
    wal: int


class Receiver:
    """Takes what the webhook sends, and answers 204."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.count = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                receiver.ids.add(self.headers["webhook-id"])
                receiver.count += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    folder = chosen.folder.resolve()
    server_core, load_core = machine.two_cores()
    os.sched_setaffinity(0, {load_core})
    work_folder = Path(tempfile.mkdtemp(dir=folder, prefix="soak-"))
    servers = Servers(Programs(chosen.sessiond.resolve(), folder, folder, folder, {}), work_folder, server_core)
    servers.pin()
    try:
        found = soak(servers, work_folder, chosen.paced.resolve(), load_core, chosen.minutes * 60)
    except load.WrongAnswer as wrong:
        sys.exit(f"benches/soak.sh: FAILED: {wrong}")
    finally:
        servers.stop_all()
        shutil.rmtree(work_folder)
    found["machine"] = machine.described()
    (folder / "soak.json").write_text(json.dumps(found, indent=1))
    text = page(found)
    (folder / "soak.md").write_text(text)
    print(text)
    if not all(line["is_met"] for line in found["lines"]):
        sys.exit("benches/soak.sh: FAILED: not everything is as it was")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/soak.sh", description="Runs sessiond at half its load and looks for what changes.")
    parser.add_argument("--minutes", type=int, default=30, help="how long, 3 to 1440; 30 unless told")
    parser.add_argument("--sessiond", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--paced", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    # For the help alone nothing need be built.
    if "--help" in sys.argv:
        parser.print_help()
        sys.exit()
    chosen = parser.parse_args()
    if not 3 <= chosen.minutes <= 1440:
        parser.error("--minutes must be 3 to 1440")
    return chosen


def soak(servers: Servers, folder: Path, paced: Path, load_core: int, secs: int) -> dict:
    sessiond = servers.programs.sessiond
    database, backups = folder / "soak.db", folder / "backups"
    backups.mkdir()
    key = scale.api_key(sessiond, database)
    server = servers.sessiond("soak", database, **SETTINGS, backup__folder=backups)
    tokens = talking.ask_each(
        server.port, [scale.sign_in(key, f"kept-{number // 5}") for number in range(CHECKED)], talking.token_in_body
    )
    receiver = Receiver()
    body = json.dumps({"url": receiver.url, "types": ["user.sessions_revoked"]})
    asked = load.request("POST", "/v1/webhooks", bearer(key), body)
    status, _, answer = talking.ask(server.port, asked)
    if status != 201:
        raise load.WrongAnswer(f"the webhook was not made: {answer!r}")

    checks = load.one_kind(folder / "checks", [load.request("GET", "/v1/session", bearer(token)) for token in tokens])
    creations = load.one_kind(folder / "creations", [short_sign_in(key, number) for number in range(USERS)])
    endings = load.one_kind(folder / "endings", [end_all_of(key, number) for number in range(USERS)])
    most_checks = saturating(server, checks, load_core)
    most_creations = saturating(server, creations, load_core)
    streams = [
        Stream(checks, most_checks * CHECKS_SHARE, 200),
        Stream(creations, most_creations * CREATIONS_SHARE, 201),
        Stream(endings, most_creations * ENDINGS_SHARE, 200),
    ]
    tell(f"{streams[0].rate:,.0f} checks/s, {streams[1].rate:,.0f} creations/s, {streams[2].rate:,.0f} endings of all of a user/s")

    samples: list[Sample] = []
    ticks, began = server.cpu_ticks(), time.monotonic()
    while time.monotonic() - began < secs:
        server_ticks, stolen_ticks, round_began = server.cpu_ticks(), machine.stolen_ticks(servers.core), time.monotonic()
        rounds = load.run_paced(paced, server.port, streams, ROUND_SECS, load_core)
        cpu_share = (server.cpu_ticks() - server_ticks) / machine.TICKS_PER_SEC / (time.monotonic() - round_began)
        stolen_ms = 1000 * (machine.stolen_ticks(servers.core) - stolen_ticks) / machine.TICKS_PER_SEC
        samples.append(sample(server, database, time.monotonic() - began, rounds, cpu_share, stolen_ms))
        if len(samples) % 2 == 0:
            one = samples[-1]
            tell(f"{one.secs:.0f} s: p99 {one.check_p99_ms:.1f} ms, {one.resident / MB:.1f} MB, database {one.database / MB:.0f} MB")
    share = (server.cpu_ticks() - ticks) / machine.TICKS_PER_SEC / (time.monotonic() - began)

    # What was sent last is on its way.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: deliveries(database).get("pending", 0) == 0)
    states = deliveries(database)
    backups_made = metric(server, 'sessiond_backups_total{result="made"}')
    server.stop()
    complaints = [line for line in (folder / "soak.log").read_text(errors="replace").splitlines() if line]
    newest = max(backups.iterdir(), default=None, key=lambda path: path.name)
    checked = [whole(sessiond, path) for path in (database, newest) if path]
    rates = {name: stream.rate for name, stream in zip(("checks", "creations", "endings"), streams, strict=True)}
    return {
        "rates": rates,
        "cpu_share": share,
        "samples": [asdict(one) for one in samples],
        "complaints": complaints,
        "lines": [
            *compared(samples, secs),
            line("answers that were not as they must be", "none", "none", True),
            line("lines in the log, warnings and errors", "none", f"{len(complaints)}", not complaints),
            line(
                "webhook",
                "everything delivered",
                f"{len(receiver.ids):,} events in {receiver.count:,} requests; " + told(states),
                bool(receiver.ids) and set(states) <= {"delivered"},
            ),
            line(
                "backups",
                f"one every {BACKUP_SECS} s, {BACKUPS_KEPT} kept",
                f"{backups_made:,.0f} made, {len(list(backups.iterdir()))} there",
                backups_made >= secs // BACKUP_SECS - 1 and len(list(backups.iterdir())) == min(BACKUPS_KEPT, backups_made),
            ),
            line("`sessiond check` of the database and of the newest backup", "ok", "; ".join(checked), all(map(is_ok, checked))),
        ],
    }


def line(what: str, target: str, measured: str, is_met: bool) -> dict:
    return {"what": what, "target": target, "measured": measured, "is_met": is_met}


def compared(samples: list[Sample], secs: int) -> list[dict]:
    """The first quarter, once everything has settled, next to the last."""
    settled = [one for one in samples if one.secs > min(SETTLING_SECS, secs / 3)]
    quarter = max(len(settled) // 4, 1)
    first, last = settled[:quarter], settled[-quarter:]

    def both(read) -> tuple[float, float]:
        return median(map(read, first)), median(map(read, last))

    memory_first, memory_last = both(lambda one: one.resident)
    p99_first, p99_last = both(lambda one: one.check_p99_ms)
    creation_first, creation_last = both(lambda one: one.creation_p99_ms)
    database_first, database_last = both(lambda one: one.database)
    digits = report.in_three_digits
    return [
        line(
            "resident memory, first and last quarter",
            f"≤ {MEMORY_GROWTH_MAX} x",
            f"{memory_first / MB:.1f} and {memory_last / MB:.1f} MB, {memory_last / memory_first:.3f} x",
            memory_last <= MEMORY_GROWTH_MAX * memory_first,
        ),
        line(
            "p99 of checks, first and last quarter",
            f"≤ {P99_GROWTH_MAX} x",
            f"{digits(p99_first)} and {digits(p99_last)} ms, {p99_last / p99_first:.2f} x",
            p99_last <= P99_GROWTH_MAX * p99_first,
        ),
        line(
            "p99 of creations, first and last quarter",
            f"≤ {P99_GROWTH_MAX} x",
            f"{digits(creation_first)} and {digits(creation_last)} ms, {creation_last / creation_first:.2f} x",
            creation_last <= P99_GROWTH_MAX * creation_first,
        ),
        line(
            "database, first and last quarter",
            f"≤ {MEMORY_GROWTH_MAX} x",
            f"{database_first / MB:.0f} and {database_last / MB:.0f} MB; the log at most {max(one.wal for one in samples) / MB:.0f} MB",
            database_last <= MEMORY_GROWTH_MAX * database_first,
        ),
    ]


def short_sign_in(key: str, number: int) -> bytes:
    """A sign-in whose session the sweeper ends a minute later, if nothing else does before."""
    body = json.dumps(
        {"user_id": f"short-{number}", "user_agent": scale.USER_AGENT, "ip_address": "194.25.2.7", "idle_timeout_secs": SHORT_IDLE_SECS}
    )
    return load.request("POST", "/v1/sessions", bearer(key), body)


def end_all_of(key: str, number: int) -> bytes:
    return load.request("DELETE", f"/v1/users/short-{number}/sessions", bearer(key))


def saturating(server: Server, requests: Requests, load_core: int) -> float:
    """What is answered when each request follows the last one's answer."""
    rates = [load.run_round(server.port, requests, 64, SATURATING_SECS, load_core).rate for _ in range(3)]
    server.settle()
    return median(rates)


def sample(
    server: Server, database: Path, secs: float, rounds: list[load.PacedRound], cpu_share: float, stolen_ms: float
) -> Sample:
    of_checks, of_creations, of_endings = rounds
    wal = database.with_name(f"{database.name}-wal")
    return Sample(
        secs=secs,
        check_p50_ms=of_checks.p50_ms,
        check_p99_ms=of_checks.p99_ms,
        creation_p99_ms=of_creations.p99_ms,
        ending_p99_ms=of_endings.p99_ms,
        late_p99_ms=of_checks.late_p99_ms,
        cpu_share=cpu_share,
        stolen_ms=stolen_ms,
        **machine.memory(server.processes[0].pid),
        database=database.stat().st_size,
        wal=wal.stat().st_size if wal.exists() else 0,
    )


def deliveries(database: Path) -> dict[str, int]:
    """How many deliveries are in which state."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM webhook_deliveries GROUP BY state").fetchall())


def told(states: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "none left"


def metric(server: Server, name: str) -> float:
    _, _, body = talking.ask(server.port, load.request("GET", "/metrics", {}))
    found = [text.split()[-1] for text in body.decode().splitlines() if text.startswith(f"{name} ")]
    return float(found[0]) if found else 0


def whole(sessiond: Path, database: Path) -> str:
    command = [str(sessiond), "check", "--database", str(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return (done.stdout + done.stderr).strip().replace("\n", "; ")


def is_ok(said: str) -> bool:
    return said.startswith("ok: ")


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def page(found: dict) -> str:
    """Everything that the run found, in Markdown."""
    rates, minutes = found["rates"], found["samples"][-1]["secs"] / 60
    lines = [
        "# sessiond for a while",
        "",
        f"{minutes:.0f} minutes at {rates['checks']:,.0f} checks, {rates['creations']:,.0f} creations and {rates['endings']:,.0f} "
        f"endings of all of a user each second: the server's core {found['cpu_share']:.0%} busy. New sessions expire after "
        f"{SHORT_IDLE_SECS} s, and are deleted {RETENTION_SECS} s later.",
        "",
        f"Machine: {found['machine']}.",
        "",
        report.line_of(["what", "target", "measured", "met"]),
        "|---|---|---|---|",
    ]
    lines += [
        report.line_of([one["what"], one["target"], one["measured"], "yes" if one["is_met"] else "**no**"]) for one in found["lines"]
    ]
    if found["complaints"]:
        lines += ["", "The first lines of the log:", "", *(f"    {text}" for text in found["complaints"][:10])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
