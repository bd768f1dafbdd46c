#!/usr/bin/env python3
"""Measures sessiond against its own targets. benches/targets.sh builds what this needs."""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from measuring import alone, load, machine, report
from measuring.alone import MEASURES, Alone, Figure, Sizes
from measuring.servers import Programs, Servers

FULL_RUN = Sizes(
    sessions=100_000,
    starts=10,
    rest_secs=5,
    streams=5_000,
    stream_secs=20,
    touch_interval_secs=60,
    touch_secs=70,
    expiring=1_000_000,
    sweep_rounds=5,
    sweep_lead_secs=75,
    load_rounds=5,
    load_secs=5,
)
QUICK_RUN = Sizes(
    sessions=20_000,
    starts=5,
    rest_secs=2,
    streams=1_000,
    stream_secs=2,
    touch_interval_secs=10,
    touch_secs=12,
    expiring=60_000,
    sweep_rounds=3,
    sweep_lead_secs=30,
    load_rounds=3,
    load_secs=2,
)
# As in compare.py: more of a core than this is not the system's own work.
OTHERS_SHARE_MAX = 0.1
LISTENING_SECS = 3
METHOD = (
    "sessiond with one worker has one core, all that asks it another one. What is compared here is sessiond with itself; how it "
    "stands next to others, checks that miss the cache, creations and revocations are in `results.md` of `benches/run.sh`."
)


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if sqlite3.sqlite_version_info < (3, 37):
        raise SystemExit("Python's SQLite is older than 3.37 and knows no STRICT tables.")
    folder = chosen.folder.resolve()
    server_core, load_core = machine.two_cores()
    os.sched_setaffinity(0, {load_core})
    sizes = QUICK_RUN if chosen.quick else FULL_RUN
    can_open = alone.open_files(sizes.streams)
    work_folder = Path(tempfile.mkdtemp(dir=folder, prefix="targets-"))
    servers = Servers(Programs(chosen.sessiond.resolve(), folder, folder, folder, {}), work_folder, server_core)
    servers.pin()
    bench = Alone(servers, sizes, folder, chosen.paced.resolve(), load_core, can_open)
    figures: list[Figure] = []
    began = time.monotonic()
    others = [others_share(server_core, load_core)]
    try:
        for name, (title, measure) in MEASURES.items():
            if chosen.only is None or name in chosen.only:
                tell(title)
                for figure in measure(bench):
                    tell(f"  {figure.what}: {figure.text}")
                    figures.append(figure)
                servers.stop_all()
    except load.WrongAnswer as wrong:
        sys.exit(f"benches/targets.sh: FAILED: {wrong}")
    finally:
        servers.stop_all()
        shutil.rmtree(work_folder)
    others.append(others_share(server_core, load_core))
    if max(others) > OTHERS_SHARE_MAX:
        bench.notes.insert(
            0,
            f"**The machine was not quiet**: something else took {max(others):.0%} of a core before or after the run. Times and rates "
            "are worth little then.",
        )
    tell(f"{time.monotonic() - began:.0f} s")
    write(figures, bench.notes, sizes, chosen, folder)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/targets.sh", description="Measures sessiond against its own targets.")
    parser.add_argument("--quick", action="store_true", help="about 3 minutes instead of 12; smaller, and less to be relied on")
    parser.add_argument("--only", help=f"names, with commas between: {', '.join(MEASURES)}")
    parser.add_argument("--sessiond", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--paced", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    # For the help alone nothing need be built.
    if "--help" in sys.argv:
        parser.print_help()
        sys.exit()
    chosen = parser.parse_args()
    chosen.only = set(chosen.only.split(",")) if chosen.only else None
    unknown = (chosen.only or set()) - set(MEASURES)
    if unknown:
        parser.error(f"nothing is named {', '.join(sorted(unknown))}")
    return chosen


def others_share(*cores: int) -> float:
    """How busy the busier core is while nothing is measured."""
    before = [machine.busy_ticks(core) for core in cores]
    time.sleep(LISTENING_SECS)
    after = [machine.busy_ticks(core) for core in cores]
    return max(end - begin for begin, end in zip(before, after, strict=True)) / machine.TICKS_PER_SEC / LISTENING_SECS


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def write(figures: list[Figure], notes: list[str], sizes: Sizes, chosen: argparse.Namespace, folder: Path) -> None:
    version = machine.first_line_of(str(chosen.sessiond), "--version")
    text = page(figures, notes, version, chosen.quick)
    found = {
        "method": METHOD,
        "machine": machine.described(),
        "sessiond": version,
        "sizes": asdict(sizes),
        "figures": [asdict(figure) for figure in figures],
        "notes": notes,
    }
    (folder / "targets.md").write_text(text)
    (folder / "targets.json").write_text(json.dumps(found, indent=1))
    print(text)
    tell(f"written: {folder / 'targets.md'}")


def page(figures: list[Figure], notes: list[str], version: str, is_quick: bool) -> str:
    """Everything that a run found, in Markdown."""
    lines = ["# sessiond and its targets", "", METHOD, "", f"Machine: {machine.described()}. {version}.", ""]
    if is_quick:
        lines += ["A quick run: smaller than the targets are meant, and less to be relied on.", ""]
    lines += [report.line_of(["what", "target", "measured", "met"]), "|---|---|---|---|"]
    for figure in figures:
        met = {True: "yes", False: "**no**", None: ""}[figure.is_met]
        lines.append(report.line_of([figure.what, figure.target, figure.text, met]))
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
