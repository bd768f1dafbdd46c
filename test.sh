#!/usr/bin/env bash
# Every check of this project: formatting, lints, documentation, tests. Installs what the tests need if it can.
# Asks nothing, and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")"
exec </dev/null
export RUSTDOCFLAGS="-D warnings"

# The axe-core that the lock file names.
MODULES=tests/browser/node_modules
LOCK=tests/browser/package-lock.json
INSTALLED="$MODULES/.installed-package-lock.json"
# What verifies what webhooks sign, what calls the API after its document, and what both are installed in.
PYTHON=target/python
REQUIREMENTS=tests/python/requirements.txt
PYTHON_INSTALLED="$PYTHON/installed-requirements.txt"

step=
skipped=()
trap '[[ $? -eq 0 ]] || echo "test.sh: FAILED: ${step:-it did not start}" >&2' EXIT

begin() {
    step=$1
    printf '\n== %s\n' "$step"
}

has() {
    command -v "$1" >/dev/null
}

run() {
    printf '+ %s\n' "$*"
    "$@"
}

# Debian packages, as root or by a sudo that asks for no password; else says what is to be installed.
install_packages() {
    local root=()
    if ! has apt-get || { [[ $EUID -ne 0 ]] && ! sudo -n true 2>/dev/null; }; then
        echo "Please install (Debian's names of the packages): $*" >&2
        return 1
    fi
    [[ $EUID -eq 0 ]] || root=(sudo -n)
    run "${root[@]}" apt-get update
    run "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

begin "What the tests need"
if ! has cargo; then
    echo "Please install Rust with cargo, rustfmt and clippy: https://rustup.rs" >&2
    exit 1
fi
missing=()
has chromium || has google-chrome || missing+=(chromium)
has chromedriver || missing+=(chromium-driver)
is_outdated=false
cmp --quiet "$LOCK" "$INSTALLED" || is_outdated=true
if $is_outdated && ! has npm; then
    missing+=(nodejs npm)
fi
is_python_outdated=false
cmp --quiet "$REQUIREMENTS" "$PYTHON_INSTALLED" || is_python_outdated=true
if $is_python_outdated && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3 python3-venv)
fi
if ((${#missing[@]})); then
    install_packages "${missing[@]}"
fi
if $is_outdated; then
    (cd tests/browser && run npm ci --ignore-scripts --no-audit --no-fund)
    cp "$LOCK" "$INSTALLED"
fi
if $is_python_outdated; then
    run python3 -m venv --clear "$PYTHON"
    run "$PYTHON/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$REQUIREMENTS"
    cp "$REQUIREMENTS" "$PYTHON_INSTALLED"
fi
echo "Browser, driver, axe-core, the library of Standard Webhooks and schemathesis are there."

begin "Formatting"
run cargo fmt --check

begin "Lints"
run cargo clippy --locked --all-targets -- -D warnings

begin "Documentation"
run cargo doc --locked --no-deps --document-private-items

begin "Tests"
if has cargo-nextest; then
    run cargo nextest run --locked --no-fail-fast
    run cargo test --locked --doc
else
    # With the examples of the documentation.
    run cargo test --locked --no-fail-fast
fi

begin "The API after its document (more calls: fuzz/api.sh)"
run fuzz/api.sh 15 1

begin "Licences and sources of dependencies"
if has cargo-deny; then
    run cargo deny --locked check bans licenses sources
else
    skipped+=("cargo deny is not installed")
    echo "Skipped: ${skipped[-1]}."
fi

step=
summary="all checks passed in $SECONDS s"
if ((${#skipped[@]})); then
    printf -v reasons '%s; ' "${skipped[@]}"
    summary+=", ${#skipped[@]} skipped: ${reasons%; }"
fi
printf '\ntest.sh: %s\n' "$summary"
