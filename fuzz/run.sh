#!/usr/bin/env bash
# Looks for input that breaks what properties.rs asserts.
#
#     fuzz/run.sh [SECONDS] [TARGET…]
#
# SECONDS is how long each target is run (default 60). What is found to lead somewhere new is kept in target/found and goes on from
# there the next time; what breaks something lies in artifacts/TARGET afterwards, and belongs into corpus/TARGET once it is mended:
# ./test.sh holds all of that to the same properties.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
targets=("$@")
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz/run.sh: please install a nightly toolchain: rustup toolchain install nightly" >&2
    exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz/run.sh: please install cargo-fuzz: cargo install cargo-fuzz" >&2
    exit 1
fi
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(cargo +nightly fuzz list)
fi
broken=()
for target in "${targets[@]}"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    mkdir -p "fuzz/target/found/$target"
    # The bodies of requests have 64 KiB at most.
    cargo +nightly fuzz run "$target" "fuzz/target/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -max_len=70000 -print_final_stats=1 || broken+=("$target")
done
if ((${#broken[@]})); then
    echo "fuzz/run.sh: FAILED: ${broken[*]}" >&2
    exit 1
fi
printf '\nfuzz/run.sh: nothing found in %s\n' "${targets[*]}"
