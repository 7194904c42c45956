#!/usr/bin/env bash
# bids-validator-deno 3.0.0 (schema 1.2.4), nibabel 5.4.2, seen 2026-11-29.
# Guess: the scan without excitation (noRF) that a diffusion series was acquired with lies beside it,
#   as sub-01_noRF.nii.gz in dwi/; denoisers of diffusion MRI are the programs that read it.
# Behaviour: it is an error there. noRF is a suffix of functional and of perfusion scans only; in
#   func/ the same file is valid (with a task), in dwi/ and anat/ no name of it is.
# Output seen:
#   dwi: ALL_FILENAME_RULES_HAVE_ISSUES
#   func: valid
#   anat: ALL_FILENAME_RULES_HAVE_ISSUES
# For a user: keep the noise scan beside the series, where programs look for it, and name it in
#   .bidsignore, or file it under func/ and tell the program where it is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet bids-validator-deno==3.0.0 nibabel==5.4.2 numpy==2.4.6
cat >run.py <<'EOF'
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np

root = Path("data")
about = {"Name": "Synthetic", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
names = {
    "dwi": "sub-01_noRF",
    "func": "sub-01_task-rest_noRF",
    "anat": "sub-01_noRF",
}


def scan(path, shape):
    image = nib.Nifti1Image(np.random.default_rng(0).random(shape, np.float32), np.eye(4))
    nib.save(image, f"{path}.nii.gz")
    side = {"RepetitionTime": 2.0, "EchoTime": 0.03, "TaskName": "rest"}
    Path(f"{path}.json").write_text(json.dumps(side))


def errors(room):
    shutil.rmtree(root, ignore_errors=True)
    (root / "sub-01" / room).mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README").write_text("Made by a script, to see what a validator says. " * 5)
    scan(root / "sub-01" / room / names[room], (6, 6, 4, 3) if room == "func" else (6, 6, 4))
    if room == "func":
        scan(root / "sub-01" / room / "sub-01_task-rest_bold", (6, 6, 4, 3))
    command = ["v/bin/bids-validator-deno", str(root), "--format", "json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    bad = [i for i in found["issues"]["issues"] if i["severity"] == "error"]
    return sorted({i["code"] for i in bad if "noRF" in i.get("location", "")})


seen = {room: errors(room) for room in names}
for room, codes in seen.items():
    print(f"{room}: {' '.join(codes) or 'valid'}")
assert seen == {
    "dwi": ["ALL_FILENAME_RULES_HAVE_ISSUES"],
    "func": [],
    "anat": ["ALL_FILENAME_RULES_HAVE_ISSUES"],
}, seen
EOF
v/bin/python run.py
