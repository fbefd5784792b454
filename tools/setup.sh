#!/bin/sh
# Makes .venv from requirements.lock: `make setup` calls this with `venv` and then `link`,
# `make lock` with `lock`. The tests of the LiteLLM integration call it with `litellm`, for the
# proxy's packages do not go together with the suite's.
# Needs Python 3.11 or newer with its venv module; everything else comes hash-checked from the lock.
set -eu
cd "$(dirname "$0")/.."
litellm_pins=tests/integration/litellm/requirements

fail() {
    echo "setup: $*" >&2
    exit 1
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed; found none among ${PYTHON:+$PYTHON }python3 python3.13 python3.12 python3.11." \
        "Name one with: make setup PYTHON=/path/to/python"
}

# uv reads neither pip.conf nor PIP_*: hand it what pip is configured with.
pip_setting() {
    .venv/bin/python -m pip config get ":env:.$1" 2>/dev/null ||
        .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true
}

run_uv() {
    if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
        index=$(pip_setting index-url)
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi
    if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then
        more=$(pip_setting extra-index-url | tr '\n' ' ')
        [ -z "$more" ] || export UV_INDEX="$more"
    fi
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        certificates=$(pip_setting cert)
        [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
    fi
    # An account without a writable home still gets an environment, only without a shared cache.
    if [ -z "${UV_CACHE_DIR:-}" ] && ! mkdir -p "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/uv" 2>/dev/null; then
        export UV_NO_CACHE=1
    fi
    unset VIRTUAL_ENV CONDA_PREFIX
    .venv/bin/uv "$@"
}

make_venv() {
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        "$python" -m venv --clear .venv ||
            fail "\"$python -m venv\" failed; on Debian and Ubuntu install the package python3-venv"
    fi
    # The one entry of the lock that pip installs is uv; the hash is checked like every other.
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.venv/uv.lock
    wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' .venv/uv.lock)
    case $(.venv/bin/uv --version 2>/dev/null || true) in
    "uv $wanted"*) ;;
    *) .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock ;;
    esac
    run_uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
}

link_projects() {
    run_uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . --editable client
}

make_litellm() {
    [ -x .venv/litellm/bin/python ] || run_uv venv --quiet --python .venv/bin/python .venv/litellm
    run_uv pip sync --quiet --compile-bytecode --python .venv/litellm/bin/python --require-hashes "$litellm_pins.lock"
}

# The suite with its tools, and from it what an image needs: the same versions without the tools.
pin_versions() {
    pin requirements.lock pyproject.toml client/pyproject.toml --group dev "$@"
    pin requirements-runtime.lock pyproject.toml client/pyproject.toml --constraint requirements.lock
    pin "$litellm_pins.lock" "$litellm_pins.in" client/pyproject.toml "$@"
}

pin() {
    lock=$1
    shift
    run_uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file "$lock" "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
venv) make_venv ;;
link) link_projects ;;
litellm) make_litellm ;;
lock) pin_versions "$@" ;;
*) fail "usage: tools/setup.sh venv | link | lock | litellm" ;;
esac
