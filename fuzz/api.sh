#!/usr/bin/env bash
# Calls the server in every way that its OpenAPI document allows and forbids, and holds the answers against the document:
# no 5xx, no status, type or field that is not written down, nothing taken that is forbidden, nothing refused that is allowed.
#
#     fuzz/api.sh [EXAMPLES] [SEED]
#
# EXAMPLES is how many calls are thought up for each operation (default 500: some ten minutes); without SEED each run makes
# other calls, and prints the seed. ./test.sh runs few, always the same.
set -euo pipefail
cd "$(dirname "$0")/.."
examples=${1:-500}
seed=${2:-$RANDOM}

ST=$PWD/target/python/bin/st
BINARY=$PWD/target/debug/sessiond
if [[ ! -x $ST ]]; then
    echo "fuzz/api.sh: there is no $ST, which ./test.sh puts there" >&2
    exit 1
fi
# The binary of the tests: alone it would be another, with dependencies built anew.
cargo test --locked --quiet --no-run --test all

work=$(mktemp -d)
server=
stop() {
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT
cd "$work"

SESSIOND_KEY=$("$BINARY" keys create schemathesis --database s.db 2>/dev/null)
export SESSIOND_KEY
# Wrong credentials and strangers are part of it, and come from one address.
export SESSIOND_RATE_LIMITS__UNAUTHENTICATED_PER_MINUTE=0 SESSIOND_RATE_LIMITS__WRONG_CREDENTIALS_PER_MINUTE=0
# So that visitors and webhooks are called as well.
SESSIOND_APPS__DEFAULT__ANONYMOUS_PER_HOUR_TOTAL=1000000 SESSIOND_APPS__DEFAULT__ANONYMOUS=true SESSIOND_APPS__DEFAULT__ANONYMOUS_PER_HOUR=10000 SESSIOND_WEBHOOKS__ALLOW_PRIVATE=true \
    "$BINARY" serve --listen 127.0.0.1:0 --database s.db 2>log &
server=$!
for _ in {1..100}; do
    SESSIOND_URL=$(sed -n 's/.*serving on \(http:[^ ]*\)\/ .*/\1/p' log)
    [[ -z $SESSIOND_URL ]] || break
    kill -0 "$server" 2>/dev/null || { cat log >&2; server=; exit 1; }
    sleep 0.1
done
[[ -n $SESSIOND_URL ]] || { echo "fuzz/api.sh: the server does not say where it serves" >&2; exit 1; }
export SESSIOND_URL SCHEMATHESIS_HOOKS=$OLDPWD/fuzz/api_hooks.py

status=0
"$ST" --config-file "$OLDPWD/fuzz/api.toml" run "$SESSIOND_URL/openapi.json" --checks all \
    --max-examples "$examples" --seed "$seed" --request-timeout 20 || status=$?
kill -0 "$server" || { echo "fuzz/api.sh: the server is gone" >&2; status=1; }
if grep -E 'panicked|was answered with' log; then
    echo "fuzz/api.sh: the server's log tells of these" >&2
    status=1
fi
exit "$status"
