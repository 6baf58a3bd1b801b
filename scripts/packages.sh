#!/bin/sh
# Installs the Debian packages that are named and missing, and starts nothing.
#
#   scripts/packages.sh haproxy git
#
# It does nothing where all of them are there, so it can be run before every build. Services that a
# package brings are neither started nor enabled: evenkeel's tests and its demo start their own, on
# ports of their own.
set -eu

command -v dpkg-query >/dev/null || {
    echo "packages: this is no Debian; what you need of these is up to you: $*" >&2
    exit 0
}

missing=
for package in "$@"; do
    # shellcheck disable=SC2016 # the format is dpkg's
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || state=
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "packages: missing, and only root can install them: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

# A package asks policy-rc.d before it starts its service; 101 is "forbidden".
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
ours=
finish() {
    rm -f "$log"
    [ -z "$ours" ] || $as_root rm -f "$policy"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >"$log" 2>&1
}

echo "packages: installing$missing" >&2
# The lists are fetched only when what they say, or their absence, is of no use.
# shellcheck disable=SC2086 # a list of names
if ! apt install --no-install-recommends $missing; then
    if ! { apt update && apt install --no-install-recommends $missing; }; then
        cat "$log" >&2
        echo "packages: could not install$missing" >&2
        exit 1
    fi
fi

# Not started now, and not at the next boot either; where a policy of the machine's own allowed a start, stopped.
command -v systemctl >/dev/null || exit 0
for package in $missing; do
    for unit in $(dpkg-query --listfiles "$package" | sed -n 's|^.*/systemd/system/\([^/@]*\.service\)$|\1|p'); do
        $as_root systemctl disable --quiet "$unit" >/dev/null 2>&1 || true
        [ ! -d /run/systemd/system ] || $as_root systemctl stop "$unit" || true
    done
done
