#!/bin/sh
# Searches for input that evenkeel cannot take: each target under fuzz/ for so many seconds, or those that are named.
#
#   scripts/fuzz.sh 60
#   scripts/fuzz.sh 600 report desired
#
# What it finds is in fuzz/artifacts/; mend the product, and keep the input in fuzz/found/, where `make test` tries it ever after.
set -eu

seconds=$1
shift
cd "$(dirname "$0")/.."

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo 'fuzz: it needs a nightly compiler: rustup toolchain install nightly' >&2
    exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --quiet --locked cargo-fuzz@0.13.2
fi

if [ $# -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        set -- "$@" "$(basename "$file" .rs)"
    done
fi
cargo +nightly fuzz build
for target in "$@"; do
    echo "fuzz: $target, $seconds s" >&2
    # What the search finds on its way is kept from one run to the next, but not committed.
    mkdir -p "fuzz/corpus/$target" "fuzz/found/$target"
    case $target in
    report | assignment | document) words=-dict=fuzz/dictionaries/bus.dict ;;
    release) words= ;; # archives have no words
    *) words=-dict=fuzz/dictionaries/$target.dict ;;
    esac
    # The bounds that docs/hostile-input.md states. -max_len as BYTES_MAX in tests/hostile/inputs/mod.rs.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" "fuzz/found/$target" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 \
        -print_final_stats=1 ${words:+"$words"}
done
