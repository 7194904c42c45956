#!/usr/bin/env bash
# Makes .venv with the pinned packages. An installation that was interrupted is begun afresh.
set -euo pipefail
cd "$(dirname "$0")/.."

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
    local p
    for p in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if usable "$p"; then echo "$p"; return; fi
    done
    echo "mri_diffusion needs Python 3.11, 3.12 or 3.13; found: $(python3 --version 2>&1 || echo none). Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2
    exit 2
}

if [[ -e .venv/.building ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    version=$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "Python $version is here, but its venv module is not. Debian, Ubuntu: apt install python3-venv (or python$version-venv), then run make again" >&2
        exit 2
    fi
    echo "Making .venv with Python $version (once; it downloads 1 to 4 GB)"
    mkdir -p .venv && touch .venv/.building
    "$python" -m venv --clear .venv
else
    quiet=--quiet
fi
touch .venv/.building
.venv/bin/python -m pip install --disable-pip-version-check ${quiet:-} -c constraints.txt -e '.[dev]'
rm .venv/.building
touch .venv/.ready
