#!/usr/bin/env bash
# Counts the instructions that sessiond needs for a check and for a sign-in, with callgrind: a figure that hardly depends on the
# machine and on what else runs there. Takes a minute or two after building, prints a page of Markdown, keeps nothing.
# SESSIOND_BINARY may name a sessiond that is built already. Which functions they are in shows only with symbols:
# `CARGO_PROFILE_RELEASE_STRIP=none benches/instructions.sh` builds it so.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in valgrind python3; do
    command -v "$program" >/dev/null || { echo "Please install $program (Debian's name of the package, too)." >&2; exit 1; }
done
if [[ -z ${SESSIOND_BINARY:-} ]]; then
    cargo build --release --locked
    SESSIOND_BINARY=target/release/sessiond
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 benches/instructions.py "$(realpath "$SESSIOND_BINARY")"
