#!/usr/bin/env bash
# nipype 1.11.0, seen 2026-11-29.
# Guess: a Node whose inputs have changed is run again; that is what its hash of the inputs is for.
# Behaviour: (1) a Node object hashes its inputs once. Set `node.inputs.x` to another value and run
#   it again: the first result comes back, from the cache. (2) Real numbers enter the hash with ten
#   decimals, so that to a new Node in the same folder 1e-11 and 4e-11 are one input, and the result
#   of the first is returned for the second. Nothing is said in either case.
# Output seen:
#   one Node, x = 1: 2
#   one Node, x = 2: 2
#   another Node, x = 2: 4
#   another folder, x = 1e-11: 2e-11; then x = 4e-11: 2e-11
# For a user: make a new Node for other inputs; scale small numbers (fields in tesla, sources in
#   ampere metres) before they become inputs, or hand them on as text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet nipype==1.11.0 numpy==2.4.6
cat > run.py <<'EOF'
from nipype import Function, Node, logging

logging.getLogger("nipype.workflow").setLevel("ERROR")


def double(x):
    return 2 * x


def make(name):
    return Node(Function(function=double, input_names=["x"], output_names=["y"]), name, base_dir=".")


def run(node, x):
    node.inputs.x = x
    return node.run().outputs.y


node, seen = make("whole"), []
for x in (1, 2):
    seen.append(run(node, x))
    print(f"one Node, x = {x}: {seen[-1]}")
seen.append(run(make("whole"), 2))
print(f"another Node, x = 2: {seen[-1]}")
small = [run(make("small"), x) for x in (1e-11, 4e-11)]
print(f"another folder, x = 1e-11: {small[0]:g}; then x = 4e-11: {small[1]:g}")
assert seen == [2, 2, 4] and small == [2e-11, 2e-11]
EOF
NIPYPE_NO_ET=1 v/bin/python run.py 2>log || { cat log >&2; exit 1; }
