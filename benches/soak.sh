#!/usr/bin/env bash
# Runs one sessiond for half an hour at half of what it can do, with sweeps, backups and webhooks, and tells whether its memory
# stayed as it was, whether anything failed, and whether checks are as quick at the end as at the start. `benches/soak.sh`,
# `--minutes 3` for a short look. Writes target/bench/soak.md, and every round to soak.json.
# SESSIOND_BINARY may name a sessiond that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

WORK=$PWD/target/bench
export PYTHONDONTWRITEBYTECODE=1

if [[ " $* " == *" --help "* ]]; then
    exec python3 benches/soak.py --help
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
exec python3 benches/soak.py --sessiond "$SESSIOND_BINARY" --paced "$WORK/paced" --folder "$WORK" "$@"
