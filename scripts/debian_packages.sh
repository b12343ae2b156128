#!/usr/bin/env bash
# Unpacks Debian packages, and their dependencies that this machine lacks, under FOLDER/root. Needs apt, not root.
# usage: debian_packages.sh FOLDER PACKAGE...
set -euo pipefail
folder=$(realpath -m "$1")
shift
done_marker="$folder/.$(printf '%s-' "$@")done"
[ -e "$done_marker" ] && exit 0
command -v apt-get >/dev/null || { echo "debian_packages.sh: $*: needs apt-get (Debian or Ubuntu)" >&2; exit 1; }
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$folder/root" "$folder/debs"
# Lists and downloads of our own: the system's may be absent, and only root may write there. APT::Sandbox::User keeps
# root's apt from dropping to a user that cannot write here.
apt=(apt-get -q -o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt" -o APT::Sandbox::User=root)
"${apt[@]}" update >"$folder/apt.log" 2>&1 || { cat "$folder/apt.log" >&2; exit 1; }
mapfile -t needed < <("${apt[@]}" --simulate --reinstall --no-install-recommends install "$@" | awk '/^Inst/ { print $2 }')
[ "${#needed[@]}" -gt 0 ] || { echo "debian_packages.sh: $*: this system has no such package; install it yourself" >&2; exit 1; }
(cd "$folder/debs" && "${apt[@]}" download "${needed[@]}" >>"$folder/apt.log" 2>&1) || { cat "$folder/apt.log" >&2; exit 1; }
for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
rm -rf "$folder/debs" "$folder/apt"
touch "$done_marker"
