#!/usr/bin/env bash
# bids-validator-deno 3.0.0 (schema 1.2.4), nibabel 5.4.2, seen 2026-11-27.
# Guess: a denoised series desc-denoised_dwi.nii.gz in a derivative data set, beside a .bval and a
#   .bvec of the same name, as every tool of diffusion MRI writes them, is valid.
# Behaviour: it is not. Without the two files the series is an error (gradients are required); with
#   them their names are errors (desc is not allowed there). Only gradients that are inherited from a
#   file without desc pass, as dwi.bval at the root or sub-01_dwi.bval beside the series.
# Output seen:
#   none: DWI_MISSING_BVAL DWI_MISSING_BVEC
#   same name as the series: ALL_FILENAME_RULES_HAVE_ISSUES
#   at the root: valid
#   without desc: valid
# For a user: name the gradients without desc; programs that look for them under the series' own name
#   then do not find them, so keep a copy elsewhere or pass their paths.
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
folder = root / "sub-01" / "dwi"
name = "sub-01_desc-denoised_dwi"
about = {
    "Name": "Synthetic",
    "BIDSVersion": "1.10.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "none"}],
}


def errors(gradients):
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README.md").write_text("A synthetic series of three small volumes, all ones. " * 4)
    image = nib.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2
    nib.save(image, folder / f"{name}.nii.gz")
    (folder / f"{name}.json").write_text('{"SkullStripped": false, "RepetitionTime": 2.0}')
    if gradients:
        gradients.with_suffix(".bval").write_text("0 1000 1000\n")
        gradients.with_suffix(".bvec").write_text("0 1 0\n0 0 1\n0 0 0\n")
    command = ["v/bin/bids-validator-deno", str(root), "--format", "json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert answer["summary"]["schemaVersion"] == "1.2.4"
    return sorted({i["code"] for i in answer["issues"]["issues"] if i["severity"] == "error"})


places = {
    "none": None,
    "same name as the series": folder / f"{name}.x",
    "at the root": root / "dwi.x",
    "without desc": folder / "sub-01_dwi.x",
}
seen = {place: errors(path) for place, path in places.items()}
for place, codes in seen.items():
    print(f"{place}: {' '.join(codes) or 'valid'}")
assert seen["none"] == ["DWI_MISSING_BVAL", "DWI_MISSING_BVEC"]
assert seen["same name as the series"] == ["ALL_FILENAME_RULES_HAVE_ISSUES"]
assert seen["at the root"] == seen["without desc"] == []
EOF
v/bin/python run.py
