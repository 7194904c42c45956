#!/usr/bin/env bash
# dcm2niix v1.0.20260724 (from pip), pydicom 3.0.2, numpy 2.4.6, seen 2026-11-28.
# Guess: where the public DiffusionGradientOrientation (0018,9089), which is in the patient's frame,
#   contradicts GE's private directions (0019,10bb/bc/bd), the public element wins, or a warning says so.
# Behaviour: on GE files (single frame, axial or near it, phase along columns) the private (a, b, c) is
#   written as (-a, b, c), in the image's frame, whatever the public element says; no line of output
#   mentions it. Private zeros win too, and make b 0. Where the private elements are absent, the public
#   one is used, but as if it were private: (-x, y, z), not turned into the image's frame. The same
#   public element under the name SIEMENS is turned correctly, and GE's elements are ignored there. On
#   a plain axial image the two readings of it have x and y opposite and the same z.
# Output seen (axial slices turned by 30 and tilted by 20 degrees; three directions, x y z):
#   GE private, public absent:          -0.60  0.80  0.00 |  0.00  0.60  0.80 | -0.80  0.00  0.60   b 1000
#   GE private, public of same meaning: -0.60  0.80  0.00 |  0.00  0.60  0.80 | -0.80  0.00  0.60   b 1000
#   GE private, public contradicts:     -0.60  0.80  0.00 |  0.00  0.60  0.80 | -0.80  0.00  0.60   b 1000
#   GE private zero, public given:       0.00  0.00  0.00 |  0.00  0.00  0.00 |  0.00  0.00  0.00   b 0
#   GE public alone, same meaning:       0.90 -0.35  0.27 |  0.15 -0.25  0.96 |  0.59  0.58  0.56   b 1000
#   GE public alone, contradicting:      0.00  0.00  1.00 | -1.00  0.00  0.00 |  0.00  1.00  0.00   b 1000
#   SIEMENS public, same meaning:       -0.60  0.80  0.00 |  0.00  0.60  0.80 | -0.80  0.00  0.60   b 1000
#   SIEMENS public, contradicting:       0.00  0.34  0.94 |  0.87 -0.47  0.17 | -0.50 -0.81  0.30   b 1000
#   lines about the directions: 0
# For a user: correcting (0018,9089) of GE files changes nothing. De-identification that removes the
#   private elements gives wrong directions, and one that zeroes them gives none, with nothing said
#   (for zeros a warning exists where the study date is 19000101, its issue 542). Keep (0019,10bb/bc/bd), or
#   compute the directions from (0018,9089) and the image's orientation yourself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet dcm2niix==1.0.20260724 pydicom==3.0.2 numpy==2.4.6
cat >run.py <<'EOF'
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

c30, s30, c20, s20 = (f(np.deg2rad(a)) for a in (30, 20) for f in (np.cos, np.sin))
turned = np.array([[c30, -s30, 0], [s30, c30, 0], [0, 0, 1]])
tilted = np.array([[1, 0, 0], [0, c20, -s20], [0, s20, c20]])
axes = tilted @ turned  # Its rows: along a row, along a column, normal (patient's frame)


def write(path, volume, z, vendor, private, public):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.Modality, ds.Manufacturer = "Nobody", "MR", vendor
    ds.ImageType, ds.StudyDate = ["ORIGINAL", "PRIMARY", "OTHER"], "20200101"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = "1.2", "1.2.3", 7
    ds.InstanceNumber = volume * 3 + z + 1
    ds.PatientPosition, ds.InPlanePhaseEncodingDirection = "HFS", "COL"
    ds.ImagePositionPatient = [round(float(x), 6) for x in 3 * z * axes[2]]
    ds.ImageOrientationPatient = [round(float(x), 6) for x in axes[:2].ravel()]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [2, 2], 3, 3
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    pixels = np.random.default_rng(ds.InstanceNumber).integers(0, 900, (8, 8), dtype="<u2")
    ds.PixelData = pixels.tobytes()
    ds.DiffusionBValue = 1000.0 if volume else 0.0
    if public is not None and volume:
        ds.DiffusionDirectionality = "DIRECTIONAL"
        ds.DiffusionGradientOrientation = [float(x) for x in public[volume - 1]]
    if private is not None:
        own = ds.private_block(0x43, "GEMS_PARM_01", create=True)
        own.add_new(0x39, "IS", [10**9 + 1000 if volume else 0, 8, 0, 0])
        own = ds.private_block(0x19, "GEMS_ACQU_01", create=True)
        for element, x in zip((0xBB, 0xBC, 0xBD), private[volume - 1] if volume else (0, 0, 0)):
            own.add_new(element, "DS", f"{x:.6f}")
    ds.save_as(path, enforce_file_format=True)


def convert(name, vendor, private, public):
    "The directions written for the three weighted volumes, and the lines about them"
    shutil.rmtree("d", ignore_errors=True)
    Path("d/in").mkdir(parents=True)
    for volume in range(4):
        for z in range(3):
            write(f"d/in/{volume}_{z}.dcm", volume, z, vendor, private, public)
    command = ["v/bin/dcm2niix", "-b", "n", "-f", "o", "-o", "d", "d/in"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "v1.0.20260724" in ran.stdout
    words = "direction|gradient|vector|bvec|bval|diffusion|dti|0018,9089|0019,10b"
    about = [t for t in (ran.stdout + ran.stderr).splitlines() if re.search(words, t, re.I)]
    bvals, table = np.loadtxt("d/o.bval"), np.loadtxt("d/o.bvec").T[1:].round(4) + 0.0
    shown = " | ".join(" ".join(f"{x:5.2f}" for x in g.round(2) + 0.0) for g in table)
    print(f"{name + ':':35}", shown, "  b", int(bvals[1]))
    assert bvals.tolist() == [0] + 3 * [1000 if table.any() else 0]
    return table, about


private = np.array([[0.6, 0.8, 0], [0, 0.6, 0.8], [0.8, 0, 0.6]])
same = (private * [-1, -1, 1]) @ axes  # In the patient's frame
other = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
by_image = lambda g: g * [-1, 1, 1]  # As GE's private directions are written
by_patient = lambda g: (g @ axes.T) * [1, -1, 1]  # As public ones should be: rows are flipped
GE = "GE MEDICAL SYSTEMS"
cases = [
    ("GE private, public absent", GE, private, None, by_image(private)),
    ("GE private, public of same meaning", GE, private, same, by_image(private)),
    ("GE private, public contradicts", GE, private, other, by_image(private)),
    ("GE private zero, public given", GE, 0 * private, same, 0 * private),
    ("GE public alone, same meaning", GE, None, same, by_image(same)),
    ("GE public alone, contradicting", GE, None, other, by_image(other)),
    ("SIEMENS public, same meaning", "SIEMENS", private, same, by_image(private)),
    ("SIEMENS public, contradicting", "SIEMENS", None, other, by_patient(other)),
]
lines = []
for *case, expected in cases:
    table, about = convert(*case)
    assert np.allclose(table, expected, atol=2e-4), (case[0], table, expected)
    lines += about
print("lines about the directions:", len(lines))
assert np.allclose(by_patient(same), by_image(private)) and not lines
EOF
v/bin/python run.py
