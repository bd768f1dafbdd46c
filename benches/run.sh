#!/usr/bin/env bash
# Measures sessiond next to others on this machine: `benches/run.sh`, about 15 minutes, `--quick` about 3, both after the first
# builds. Installs what that needs if it can; what it cannot install is skipped, and the notes say so. Writes one page of
# tables, target/bench/results.md, with every round in results.json and a picture. `--help` lists what else can be chosen.
# SESSIOND_BINARY may name a sessiond that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

WORK=$PWD/target/bench
NODE=benches/peers/node
NODE_INSTALLED=$NODE/node_modules/.installed-package-lock.json
PYTHON=$WORK/python
REQUIREMENTS=benches/peers/python/requirements.txt
PYTHON_INSTALLED=$PYTHON/installed-requirements.txt
# What is not measured, and why: what compare.py is told.
skips=()

has() {
    command -v "$1" >/dev/null
}

run() {
    printf '+ %s\n' "$*" >&2
    "$@"
}

skip() {
    printf 'Skipped: %s. %s\n' "$1" "$2" >&2
    skips+=(--skip "$1=$2")
}

# Debian packages, as root or by a sudo that asks for no password; else says what is to be installed.
install_packages() {
    local root=()
    if ! has apt-get || { [[ $EUID -ne 0 ]] && ! sudo -n true 2>/dev/null; }; then
        echo "Please install (Debian's names of the packages): $*" >&2
        return 1
    fi
    [[ $EUID -eq 0 ]] || root=(sudo -n)
    run "${root[@]}" apt-get update >&2
    run "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" >&2
}

# Each by itself, so that one that cannot be had does not cost the others.
need_programs() {
    local package missing=()
    has wrk || missing+=(wrk)
    has taskset && has setpriv || missing+=(util-linux)
    has python3 || missing+=(python3)
    has redis-server || missing+=(redis-server)
    has webdis || missing+=(webdis)
    has npm || missing+=(nodejs npm)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    for package in ${missing[@]+"${missing[@]}"}; do
        install_packages "$package" || true
    done
    for package in cargo wrk taskset setpriv python3; do
        has "$package" || { echo "Without $package nothing can be measured." >&2; exit 1; }
    done
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed." >&2; exit 1; }
}

# The packages of the lock file. better-sqlite3 has a part in C++: it is built with the headers that came with Node.js where
# there are some, else its own installer fetches it built, or builds it.
need_node_packages() {
    if ! has node || ! has npm; then
        skip "express-session + Redis" "There is no Node.js."
        skip "express-session + better-sqlite3" "There is no Node.js."
        return
    fi
    if ! cmp --quiet $NODE/package-lock.json "$NODE_INSTALLED"; then
        if ! (cd $NODE && run npm ci --ignore-scripts --no-audit --no-fund >&2); then
            skip "express-session + Redis" "Its packages could not be installed."
            skip "express-session + better-sqlite3" "Its packages could not be installed."
            return
        fi
        cp $NODE/package-lock.json "$NODE_INSTALLED"
    fi
    if ! opens_sqlite; then
        build_better_sqlite3 || true
        opens_sqlite || skip "express-session + better-sqlite3" "better-sqlite3 could not be built here."
    fi
}

opens_sqlite() {
    (cd $NODE && node -e 'new (require("better-sqlite3"))(":memory:")' 2>/dev/null)
}

build_better_sqlite3() {
    local prefix
    prefix=$(node -p 'require("path").dirname(require("path").dirname(process.execPath))')
    if [[ -d $prefix/include/node ]]; then
        (cd $NODE && run env npm_config_nodedir="$prefix" npm_config_build_from_source=true timeout 900 npm rebuild better-sqlite3 >&2)
    else
        (cd $NODE && run timeout 900 npm rebuild better-sqlite3 >&2)
    fi
}

need_python_packages() {
    cmp --quiet $REQUIREMENTS "$PYTHON_INSTALLED" && return
    if ! { run python3 -m venv --clear "$PYTHON" &&
        run "$PYTHON/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement $REQUIREMENTS; } >&2; then
        skip "Starlette + Redis over SQLite" "Its packages could not be installed."
        return
    fi
    cp $REQUIREMENTS "$PYTHON_INSTALLED"
}

# Those that need Redis.
need_redis() {
    local peer
    if ! has redis-server; then
        for peer in "webdis + Redis" "actix-session + Redis" "express-session + Redis" "Starlette + Redis over SQLite"; do
            skip "$peer" "There is no redis-server."
        done
    elif ! has webdis; then
        skip "webdis + Redis" "There is no webdis (Debian has it)."
    fi
}

if [[ " $* " == *" --help "* ]]; then
    exec python3 benches/compare.py --help
fi
mkdir -p "$WORK"
need_programs
need_redis
need_node_packages
need_python_packages
# With SQLite as its own crate builds it, not as .cargo/config.toml has it for sessiond.
run env LIBSQLITE3_FLAGS= cargo build --release --locked --manifest-path benches/peers/rust/Cargo.toml --target-dir "$WORK/build"
if [[ -z ${SESSIOND_BINARY:-} ]]; then
    run cargo build --release --locked
    SESSIOND_BINARY=target/release/sessiond
fi
# In place of this shell, so that signals reach what has to stop the servers.
PYTHONDONTWRITEBYTECODE=1 exec python3 benches/compare.py --sessiond "$SESSIOND_BINARY" --peers "$WORK/build/release" \
    --python "$PYTHON/bin/python3" --folder "$WORK" ${skips[@]+"${skips[@]}"} "$@"
