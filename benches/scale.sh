#!/usr/bin/env bash
# Makes a database with very many sessions in target/bench: `benches/scale.sh [SESSIONS]`, 10,000,000 unless told (about
# 5 GB, some minutes, half an hour at most). benches/run.sh measures checks that read the disk on those of 1,000,000 and
# 10,000,000 sessions that it finds. Refuses if the disk has not enough room. Remove it with `rm target/bench/scale-*`.
# SESSIOND_BINARY may name a sessiond that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${SESSIOND_BINARY:-} ]]; then
    cargo build --release --locked
    SESSIOND_BINARY=target/release/sessiond
fi
PYTHONPATH=benches PYTHONDONTWRITEBYTECODE=1 exec python3 -m measuring.scale --sessiond "$(realpath "$SESSIOND_BINARY")" --folder target/bench "$@"
