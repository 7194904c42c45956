#!/usr/bin/env bash
# torch 2.13.0 (CPU), onnx 1.23.2, onnxscript 0.7.2, seen 2026-11-29.
# Guess: a file of torch.onnx.export holds the network: operators, weights, names of inputs.
# Behaviour: by default every node also carries a stack trace: the full paths of your files, the
#   functions and the lines of source that made it. Whoever gets the file reads them, and the same
#   network exported from another folder is another file, with another checksum.
# Output seen:
#   3 nodes; paths of this machine in the file: 3; lines of source: 3
#   from another folder: other bytes
#   metadata of the nodes removed: paths 0; from another folder: the same bytes
# For a user: clear `metadata_props` of graph and nodes before you publish a file or its checksum.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
mkdir -p secret_project other_folder
cat > secret_project/net.py <<'EOF'
import sys
import torch


class Net(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x * 3 - 1)


torch.onnx.export(Net(), (torch.zeros(2, 3),), sys.argv[1], dynamo=True, verbose=False)
EOF
cp secret_project/net.py other_folder/
for folder in secret_project other_folder; do
    v/bin/python "$work/$folder/net.py" "$folder.onnx" >log 2>&1 || { cat log >&2; exit 1; }
done
v/bin/python - <<'EOF'
import onnx

names = "secret_project", "other_folder"
raw = [open(f"{n}.onnx", "rb").read() for n in names]
models = [onnx.load_from_string(r) for r in raw]
paths = raw[0].count(b"secret_project/net.py")
lines = raw[0].count(b"torch.relu(x * 3 - 1)")
print(f"{len(models[0].graph.node)} nodes; paths of this machine in the file: {paths};",
      f"lines of source: {lines}")
print("from another folder:", "the same bytes" if raw[0] == raw[1] else "other bytes")
for m in models:
    for part in (m.graph, *m.graph.node, *m.graph.input, *m.graph.output, *m.graph.value_info):
        del part.metadata_props[:]
clean = [m.SerializeToString(deterministic=True) for m in models]
left = clean[0].count(b"secret_project")
print(f"metadata of the nodes removed: paths {left}; from another folder:",
      "the same bytes" if clean[0] == clean[1] else "other bytes")
assert paths > 0 and lines > 0 and raw[0] != raw[1] and left == 0 and clean[0] == clean[1]
EOF
