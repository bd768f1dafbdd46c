#!/usr/bin/env bash
# The tests that find more the longer they run, longer than in ./test.sh: kills, histories of many clients, losses of power, orders in
# which threads meet. Prints what each did, and how long that took. `--long` is for a night.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

case ${1-} in
"") kills=300 checks=50000 recordings=3 interruptions=4 ;;
--long) kills=3000 checks=1000000 recordings=30 interruptions=5 ;;
*)
    echo "usage: tests/long.sh [--long]" >&2
    exit 2
    ;;
esac

# What it is, its setting, and what cargo is told: not the runner of ./test.sh, which ends what takes minutes.
run() {
    local what=$1 setting=$2 started=$SECONDS
    shift 2
    printf '\n== %s: %s\n' "$what" "$setting"
    env "$setting" cargo test --locked --quiet "$@"
    printf '%s: passed in %d s\n' "$what" "$((SECONDS - started))"
}

run "Kills" SESSIOND_CRASH_KILLS=$kills --test all crash::acknowledged -- --nocapture
run "Histories" SESSIOND_HISTORY_CHECKS=$checks --test all histories::what -- --nocapture
run "Losses of power" SESSIOND_POWER_ROUNDS=$recordings --test all power::acknowledged -- --nocapture
run "Orders at the cache" LOOM_MAX_PREEMPTIONS=$interruptions --lib cache_orders
printf '\nlong.sh: all passed in %d s\n' "$SECONDS"
