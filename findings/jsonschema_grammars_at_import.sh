#!/usr/bin/env bash
# jsonschema 4.26.0, rfc3987-syntax 1.1.0, lark 1.3.1, seen 2026-11-29.
# Guess: installing JupyterLab beside a library does not change what `import` of that library does.
# Behaviour: JupyterLab brings jsonschema[format-nongpl], and with it rfc3987-syntax. From then on
#   `import jsonschema` (thus `import monai` and `import nbformat`) builds 39 lark parsers, one for
#   each rule of a grammar of web addresses, whether an address is checked or not: about a second of a
#   processor in every process that starts.
# Output seen (lark parsers built by `import jsonschema`):
#   alone: 0
#   with rfc3987-syntax, as JupyterLab installs it: 39
# For a user: commands, workers of a pool and kernels of notebooks each pay it. Uninstalling
#   rfc3987-syntax ends it: jsonschema then leaves that one format unchecked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
count() {
    v/bin/python - <<'EOF'
import importlib.util

built = []
if importlib.util.find_spec("lark"):
    import lark

    first = lark.Lark.__init__

    def counted(self, *args, **kwargs):
        built.append(1)
        first(self, *args, **kwargs)

    lark.Lark.__init__ = counted
import jsonschema  # noqa: E402, F401

print(len(built))
EOF
}
v/bin/pip install --quiet jsonschema==4.26.0
alone=$(count)
v/bin/pip install --quiet rfc3987-syntax==1.1.0 lark==1.3.1
with=$(count)
echo "alone: $alone"
echo "with rfc3987-syntax, as JupyterLab installs it: $with"
test "$alone" = 0 && test "$with" = 39
v/bin/python - <<'EOF'
from importlib.metadata import requires

extra = [r for r in requires("jsonschema") if "rfc3987-syntax" in r]
print(*extra, sep="\n")
assert extra and all("format-nongpl" in r for r in extra)
EOF
