#!/usr/bin/env bash
# Measures sessiond against its own targets, those that compare it with nothing else: `benches/targets.sh`, about 12 minutes,
# `--quick` about 3. Memory, disk, start, sweep, idle streams, touches, checks at half load. Writes one table,
# target/bench/targets.md, with the numbers behind it in targets.json. `--help` lists what else can be chosen.
# Uses the databases of benches/scale.sh if they are there; 1,000,000 are needed for the sweep.
# SESSIOND_BINARY may name a sessiond that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

WORK=$PWD/target/bench
export PYTHONDONTWRITEBYTECODE=1

if [[ " $* " == *" --help "* ]]; then
    exec python3 benches/targets.py --help
fi
for program in wrk taskset setpriv python3 rustc; do
    command -v "$program" >/dev/null || { echo "Without $program nothing can be measured." >&2; exit 1; }
done
mkdir -p "$WORK"
rustc --edition 2021 -O -o "$WORK/paced" benches/measuring/paced.rs
if [[ -z ${SESSIOND_BINARY:-} ]]; then
    cargo build --release --locked
    SESSIOND_BINARY=target/release/sessiond
fi
# In place of this shell, so that signals reach what has to stop the servers.
exec python3 benches/targets.py --sessiond "$SESSIOND_BINARY" --paced "$WORK/paced" --folder "$WORK" "$@"
