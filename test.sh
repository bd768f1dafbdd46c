#!/usr/bin/env bash
# Every check of this project: formatting, lints, documentation, tests. Installs what the tests need if it can.
set -euo pipefail
cd "$(dirname "$0")"
export RUSTDOCFLAGS="-D warnings"

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
cargo doc --locked --no-deps --document-private-items
cargo test --locked
