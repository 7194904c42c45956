#!/usr/bin/env bash
# Measures the library on a GPU, unattended: tools/gpu.sh [FOLDER] [options of tools/gpu.py].
# Without FOLDER the results go to $OUT, or runs/gpu. On a machine without internet, packages that
# its python lacks may lie as wheels in .gpu (pip download --no-deps -d .gpu monai nibabel ..., for
# its version of Python); they are put into .gpu/site, where only this script looks.
set -euo pipefail
cd "$(dirname "$0")/.."

sees() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }

python=python3
if [[ -x .venv/bin/python ]] && { [[ " $* " == *" cpu "* ]] || sees .venv/bin/python; }; then
    python=.venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [[ $python == python3 ]] && compgen -G '.gpu/*.whl' >/dev/null; then
    [[ -d .gpu/site ]] || python3 -m pip install --quiet --no-deps --no-index --target .gpu/site .gpu/*.whl
    export PYTHONPATH="$PYTHONPATH:$PWD/.gpu/site"
fi
if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "gpu.sh: $python has no torch; run make setup, or use a machine whose python3 has it" >&2
    exit 2
fi
echo "python: $python, $("$python" -c 'import sys, torch; print(sys.version.split()[0], "with torch", torch.__version__, "and", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU")')"
exec "$python" tools/gpu.py "$@"
