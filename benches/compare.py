#!/usr/bin/env python3
"""Measures sessiond next to others, in interleaved rounds. benches/run.sh installs and builds what this needs."""

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from measuring import chart, load, machine, report, talking
from measuring.servers import Programs, Servers
from measuring.works import WORKS, Bench, Row, Sizes, Work

ROOT = Path(__file__).resolve().parent.parent
FULL_RUN = Sizes(sessions=100_000, rounds=5, secs=4, revocations=60_000, is_complete=True)
QUICK_RUN = Sizes(sessions=20_000, rounds=3, secs=1, revocations=15_000, is_complete=False)
# More of the servers' core than this is not the system's own work.
OTHERS_SHARE_MAX = 0.1
METHOD = (
    "Each server with all its processes (Redis, too) has one core, wrk with one thread another one. The servers take turns in "
    "{rounds} rounds of {secs} s; the medians of the rounds are shown. {connections} connections where nothing else is said. CPU seconds "
    "are those of the server's processes for 100,000 requests, with what they do right after the last answer. An answer that is "
    "not as it must be fails the run."
)


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    folder = chosen.folder.resolve()
    server_core, load_core = machine.two_cores()
    programs = Programs(
        chosen.sessiond.resolve(),
        chosen.peers.resolve(),
        ROOT / "benches/peers/node",
        chosen.python.absolute(),
        dict(skipped.split("=", 1) for skipped in chosen.skip),
    )
    sizes = QUICK_RUN if chosen.quick else FULL_RUN
    work_folder = Path(tempfile.mkdtemp(dir=folder, prefix="run-"))
    servers = Servers(programs, work_folder, server_core)
    try:
        results = measure_all(Bench(servers, sizes, folder), load_core, chosen.only)
    except load.WrongAnswer as wrong:
        sys.exit(f"benches/run.sh: FAILED: {wrong}")
    finally:
        servers.stop_all()
        shutil.rmtree(work_folder)
    write(results, folder)
    if chosen.keep:
        write_picture(results, ROOT / "docs/pictures/performance.svg")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/run.sh", description="Measures sessiond next to others.")
    parser.add_argument("--quick", action="store_true", help="about 3 minutes instead of 15; less to be relied on")
    parser.add_argument("--keep", action="store_true", help="writes docs/pictures/performance.svg as well")
    parser.add_argument("--only", help=f"names of works, with commas between: {', '.join(WORKS)}")
    parser.add_argument("--sessiond", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--peers", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--python", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--skip", action="append", default=[], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only and chosen.keep:
        parser.error("the picture that is kept shows a whole run")
    chosen.only = set(chosen.only.split(",")) if chosen.only else None
    unknown = (chosen.only or set()) - set(WORKS)
    if unknown:
        parser.error(f"no work is named {', '.join(sorted(unknown))}")
    return chosen


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def measure_all(bench: Bench, load_core: int, only: set[str] | None) -> dict:
    """Everything, as it is written to results.json."""
    sizes = bench.sizes
    bench.notes += [f"Not measured: {name}. {reason}" for name, reason in bench.servers.programs.missing.items()]
    bench.seed(tell)
    works = [measure_work(build(), sizes, load_core) for name, build in bench.checks.items() if is_wanted(name, only)]
    if any(is_wanted(name, only) for name in bench.changes):
        bench.begin_changes()
    works += [measure_work(build(), sizes, load_core) for name, build in bench.changes.items() if is_wanted(name, only)]
    return {
        "method": METHOD.format(rounds=sizes.rounds, secs=sizes.secs, connections=64),
        "machine": machine.described(),
        "sessions": sizes.sessions,
        "versions": versions(bench.servers.programs),
        "works": works,
        "notes": note_of_others(works) + bench.notes,
    }


def is_wanted(name: str, only: set[str] | None) -> bool:
    return only is None or name in only


def measure_work(work: Work, sizes: Sizes, load_core: int) -> dict:
    """The rounds of one table: one server after the other, and again."""
    tell(work.title)
    rounds: list[list[dict]] = [[] for _ in work.rows]
    for row in work.rows:
        prepare(row, sizes, load_core)
    for number in range(sizes.rounds):
        for row, found in zip(work.rows, rounds, strict=True):
            one = measure_round(row, number, sizes.secs, load_core)
            tell(f"  {number + 1}/{sizes.rounds} {row.label}: {one['rate']:,.0f}/s")
            found.append(one)
    rows = [report.result_of(row.label, found) for row, found in zip(work.rows, rounds, strict=True)]
    return {
        "name": work.name,
        "title": work.title,
        "explanation": work.explanation,
        "has_ceiling": work.has_ceiling,
        "rows": rows,
    }


def prepare(row: Row, sizes: Sizes, load_core: int) -> None:
    """Looks at one answer, and lets the server run for a moment: caches fill, interpreters compile."""
    status, _, body = talking.ask(row.server.port, row.requests.first)
    if status != row.expected or row.shows not in body:
        raise load.WrongAnswer(f"{row.label}: {status} instead of {row.expected}, {len(body)} bytes: {body[:300]!r}")
    secs = min(row.warm_secs, sizes.secs)
    load.run_round(row.server.port, row.requests, row.connections, secs, load_core)
    row.server.settle()


def measure_round(row: Row, number: int, secs: int, load_core: int) -> dict:
    """One round of one row, with the CPU time that the server took for it."""
    core = row.server.core
    began, busy_before, before = time.monotonic(), machine.busy_ticks(core), row.server.cpu_ticks()
    one = load.run_round(row.server.port, row.requests_of(number), row.connections, secs, load_core)
    row.server.settle()
    cpu_secs = (row.server.cpu_ticks() - before) / machine.TICKS_PER_SEC
    busy_secs = (machine.busy_ticks(core) - busy_before) / machine.TICKS_PER_SEC
    others_share = max(busy_secs - cpu_secs, 0) / (time.monotonic() - began)
    return {**asdict(one), "rate": one.rate, "cpu_secs": cpu_secs, "others_share": others_share}


def note_of_others(works: list[dict]) -> list[str]:
    """Says so if the servers did not have their core to themselves."""
    shares = [one["others_share"] for work in works for row in work["rows"] for one in row["rounds"]]
    share = statistics.median(shares)
    if share <= OTHERS_SHARE_MAX:
        return []
    return [
        f"**The machine was not quiet**: something else took {share:.0%} of the servers' core in half of the rounds. Requests/s and "
        "their ratios are worth little then, CPU seconds more."
    ]


def versions(programs: Programs) -> dict[str, str]:
    """What was compared."""
    node = json.loads((programs.node / "package.json").read_text())["dependencies"]
    found = {
        "sessiond": machine.first_line_of(str(programs.sessiond), "--version"),
        "Rust peers": ", ".join(
            locked_crates("actix-web", "actix-session", "axum", "tower-sessions", "tower-sessions-sqlx-store")
        ),
        "Node.js peers": f"Node.js {machine.first_line_of('node', '--version')}, " + ", ".join(map(" ".join, node.items())),
        "Python peer": ", ".join(pinned_packages("starlette", "uvicorn", "uvloop", "httptools", "redis")),
        "Redis": machine.first_line_of("redis-server", "--version"),
        "webdis": machine.first_line_of("dpkg-query", "--show", "webdis"),
        "wrk": machine.first_line_of("wrk", "--version"),
    }
    return {name: version for name, version in found.items() if version}


def locked_crates(*names: str) -> list[str]:
    """The versions in the lock file of the Rust peers."""
    lines = (ROOT / "benches/peers/rust/Cargo.lock").read_text().splitlines()
    found = {}
    for name_line, version_line in zip(lines, lines[1:], strict=False):
        if name_line.startswith("name = ") and version_line.startswith("version = "):
            found[name_line.split('"')[1]] = version_line.split('"')[1]
    return [f"{name} {found[name]}" for name in names]


def pinned_packages(*names: str) -> list[str]:
    """The versions in the list of the Python peer."""
    lines = (ROOT / "benches/peers/python/requirements.txt").read_text().splitlines()
    return [line.split(" ")[0].replace("==", " ") for line in lines if line.split("==")[0].split("[")[0] in names]


def write(results: dict, folder: Path) -> None:
    text = report.page(results)
    (folder / "results.md").write_text(text)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    write_picture(results, folder / "performance.svg")
    print(text)


def write_picture(results: dict, file: Path) -> None:
    file.write_text(chart.picture(results))
    tell(f"written: {file}")


if __name__ == "__main__":
    main()
