#!/bin/sh
# Fetches what the tests of the page need besides Chromium, at the versions of tests/page/package-lock.json,
# into target/page. It does nothing where that is there.
set -eu
cd "$(dirname "$0")/.."

from=tests/page
to=target/page
mkdir -p "$to"
if cmp -s "$from/package-lock.json" "$to/fetched" 2>/dev/null; then
    exit 0
fi
cp "$from/package.json" "$from/package-lock.json" "$to/"
echo "page-tests: fetching playwright-core and axe-core" >&2
npm ci --prefix "$to" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
cp "$from/package-lock.json" "$to/fetched"
