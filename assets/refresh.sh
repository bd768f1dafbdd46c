#!/usr/bin/env bash
# Replaces country.mmdb by the newest one from npm, and updates the table in README.md. Nothing changes unless the new
# file looks sound and its licence texts are the ones that README.md describes. Run the tests afterwards: they open the
# file and compare known addresses. Needs npm, tar and coreutils.
set -euo pipefail
export LC_ALL=C

package='@ip-location-db/geo-whois-asn-country-mmdb'
member='geo-whois-asn-country.mmdb'
# The file was 7.8 MB in 2026; far less has lost data, far more bursts the binary's budget of 20 MB.
bytes_min=4000000
bytes_max=12000000
# What README.md says about the licence was read from these two.
licence='CC0-1.0'
notice_sha256='cc9dc9df675c3479fa6b8ed257aefdb222694614dd02ae6c37f0475b79ad485b'

fail() {
    printf 'refresh.sh: %s\n' "$1" >&2
    exit 1
}

assets=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$work" && npm pack --silent --ignore-scripts "$package" >/dev/null) || fail "npm cannot get $package"
tar -xzf "$work"/*.tgz -C "$work"
file="$work/package/$member"
[[ -f "$file" ]] || fail "the package has no $member any more"

field() {
    sed -n "s/^ *\"$1\": *\"\([^\"]*\)\".*/\1/p" "$work/package/package.json" | head -n 1
}
version=$(field version)
[[ "$version" =~ ^[0-9]+\.[0-9]+\.(20[0-9]{2})([0-9]{2})([0-9]{2})[0-9]*$ ]] \
    || fail "version '$version' does not end in a date; see what changed"
built="${BASH_REMATCH[1]}-${BASH_REMATCH[2]}-${BASH_REMATCH[3]}"

notice=$(sha256sum "$work/package/NRO_LICENSE" | cut -d ' ' -f 1) || fail 'the package has no NRO_LICENSE any more'
[[ "$(field license)" == "$licence" && "$notice" == "$notice_sha256" ]] \
    || fail 'the licence has changed; read it, then correct README.md and this script'

bytes=$(wc -c <"$file")
((bytes >= bytes_min && bytes <= bytes_max)) || fail "$bytes bytes is not between $bytes_min and $bytes_max"
# The metadata section begins with this marker, within the last 128 KiB.
tail -c 131072 "$file" | grep -qaF $'\xab\xcd\xefMaxMind.com' || fail 'no MaxMind DB metadata at the end of the file'

sha256=$(sha256sum "$file" | cut -d ' ' -f 1)
if [[ "$sha256" == "$(sha256sum "$assets/country.mmdb" | cut -d ' ' -f 1)" ]]; then
    printf 'Already the newest: %s\n' "$version"
    exit 0
fi

row() {
    sed -i "s/^| $1 | .* |\$/| $1 | $2 |/" "$work/README.md"
    grep -qF "| $1 | $2 |" "$work/README.md" || fail "README.md has no row '$1'"
}
cp "$assets/README.md" "$work/README.md"
row version "$version"
row built "$built"
row bytes "$bytes"
row sha256 "$sha256"
install -m 644 "$file" "$assets/country.mmdb"
install -m 644 "$work/README.md" "$assets/README.md"
printf 'country.mmdb is now %s. Run the tests.\n' "$version"
