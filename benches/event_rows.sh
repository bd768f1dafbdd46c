#!/usr/bin/env bash
# What the rows of events cost a create: three servers side by side, interleaved rounds, medians.
#   with     as it is
#   no-index event rows without the index by user (dropped in that database)
#   without  built with SESSIOND_BENCH_WITHOUT_EVENTS set: no event is written
# Needs wrk (Debian: wrk), taskset and two cores: the servers on the first, the load on the second. Loopback only.
# About 5 minutes after building. ROUNDS=5 SECONDS_EACH=4 USERS=100000 can be set.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${ROUNDS:=5}" "${SECONDS_EACH:=4}" "${USERS:=100000}"
for tool in wrk taskset curl sqlite3; do
    command -v "$tool" >/dev/null || { echo "Please install $tool." >&2; exit 1; }
done
WORK=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$WORK"
}
trap stop EXIT

SESSIOND_BENCH_WITHOUT_EVENTS=1 cargo build --quiet --release --locked
cp target/release/sessiond "$WORK/without"
cargo build --quiet --release --locked
cp target/release/sessiond "$WORK/with"

cat >"$WORK/create.lua" <<LUA
math.randomseed(os.time())
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
local agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
request = function()
    local user = math.random(1, $USERS)
    return wrk.format(nil, nil, nil, '{"user_id":"user-' .. user .. '","user_agent":"' .. agent ..
        '","ip_address":"203.0.113.' .. (user % 250) .. '"}')
end
LUA

declare -A port pid_of key_of binary
binary[with]=$WORK/with
binary[no-index]=$WORK/with
binary[without]=$WORK/without
KINDS=(with no-index without)
next=18431
for kind in "${KINDS[@]}"; do
    port[$kind]=$next
    next=$((next + 1))
    database="$WORK/$kind.db"
    key_of[$kind]=$("${binary[$kind]}" keys create bench --database "$database" 2>/dev/null)
    if [[ $kind == no-index ]]; then
        sqlite3 "$database" 'DROP INDEX events_by_subject'
    fi
    SESSIOND_SERVER__WORKERS=1 RUST_LOG=error taskset -c 0 "${binary[$kind]}" serve \
        --listen "127.0.0.1:${port[$kind]}" --database "$database" &
    pid_of[$kind]=$!
    pids+=($!)
    for _ in $(seq 100); do
        curl --silent --fail "http://127.0.0.1:${port[$kind]}/healthz" >/dev/null && break
        sleep 0.1
    done
done

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
per_second=$(getconf CLK_TCK)
for round in $(seq "$ROUNDS"); do
    for kind in "${KINDS[@]}"; do
        before=$(ticks "${pid_of[$kind]}")
        result=$(KEY=${key_of[$kind]} taskset -c 1 wrk --threads 1 --connections 64 --duration "${SECONDS_EACH}s" --latency \
            --script "$WORK/create.lua" "http://127.0.0.1:${port[$kind]}/v1/sessions")
        after=$(ticks "${pid_of[$kind]}")
        if grep -q "Non-2xx" <<<"$result"; then
            echo "$result" >&2
            exit 1
        fi
        requests=$(awk '/requests in/ {print $1}' <<<"$result")
        rate=$(awk '/Requests\/sec/ {print $2}' <<<"$result")
        p99=$(awk '$1 == "99%" {print $2}' <<<"$result")
        cpu=$(awk -v t=$((after - before)) -v hz="$per_second" -v n="$requests" 'BEGIN {printf "%.2f", t / hz / n * 100000}')
        echo "$kind $rate $cpu $p99" | tee -a "$WORK/rounds" >&2
        : "$round"
    done
done

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
base=$(awk '$1 == "with" {print $2}' "$WORK/rounds" | median)
echo "| create, durable, 64 connections | creates/s | ratio | CPU s / 100k |"
echo "|---|---|---|---|"
for kind in "${KINDS[@]}"; do
    rate=$(awk -v k="$kind" '$1 == k {print $2}' "$WORK/rounds" | median)
    cpu=$(awk -v k="$kind" '$1 == k {print $3}' "$WORK/rounds" | median)
    awk -v k="$kind" -v r="$rate" -v b="$base" -v c="$cpu" 'BEGIN {printf "| %s | %.0f | %.2f | %s |\n", k, r, r / b, c}'
done
