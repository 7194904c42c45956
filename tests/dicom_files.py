"Small DICOM files with the headers of several vendors; invented identities"

import struct

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

ENHANCED = UID('1.2.840.10008.5.1.4.1.1.4.1')
SOFTCOPY, RAW, REPORT, KEYS = (
    f'1.2.840.10008.5.1.4.1.1.{n}' for n in ('11.1', '66', '88.22', '88.59')
)
rng = np.random.default_rng(3)
OBLIQUE = np.linalg.qr(rng.normal(size=(3, 3)))[0]
OBLIQUE[2] = np.cross(OBLIQUE[0], OBLIQUE[1])  # Along a row, along a column, normal


def dicom(pixels=None, kind=MRImageStorage, **fields):
    "A data set of (H, W) or (N, H, W) uint16 pixels, of class `kind`"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = kind
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = 'Doe^Jane', 'ID-007', 'MR'
    ds.SeriesInstanceUID, ds.SeriesDescription = '1.2.3', 'dti'
    ds.StudyInstanceUID, ds.StudyDate, ds.SeriesNumber = '1.2', '20200101', 7
    if pixels is not None:
        ds.Rows, ds.Columns = pixels.shape[-2:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = np.ascontiguousarray(pixels).astype('<u2').tobytes()
    for k, v in fields.items():
        setattr(ds, k, v)
    return ds


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def short(v):
    "Numbers that fit a decimal string"
    return [round(float(x), 6) for x in v]


def plane(turn=OBLIQUE, spacing=(2, 1.5)):
    return dict(ImageOrientationPatient=short([*turn[0], *turn[1]]), PixelSpacing=list(spacing))


def head(shape=(12, 10, 6), seed=0):
    "A blob without symmetry (X, Y, Z), whole numbers"
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij')
    blob = 500 * np.exp(-2 * ((x - 0.2) ** 2 + (y + 0.1) ** 2 + (z - 0.3) ** 2)) + 90 * x + 60 * z
    return np.round(blob + 300 + np.random.default_rng(seed).normal(0, 5, shape))


def mosaic(volume, across, down):
    "Tiles of (X, Y, Z), slice by slice, as the rows and columns of one picture"
    w, h, n = volume.shape
    sheet = np.zeros((down * h, across * w))
    for k in range(n):
        y, x = k // across * h, k % across * w
        sheet[y : y + h, x : x + w] = volume[..., k].T
    return sheet


def csa(**items):
    "Siemens' header of an image: name -> list of values"
    out = b'SV10\x04\x03\x02\x01' + struct.pack('<II', len(items), 77)
    for name, values in items.items():
        vr = {int: b'US', str: b'SH'}.get(type(values[0]), b'FD')
        out += name.encode().ljust(64, b'\0') + struct.pack('<i', len(values))
        out += vr + b'\0\0' + struct.pack('<iii', 4, max(6, len(values)), 77)
        for k in range(max(6, len(values))):
            v = values[k] if k < len(values) else ''
            text = f'{v}\0'.encode() if k < len(values) else b''
            out += struct.pack('<4i', len(text), len(text), 77, len(text))
            out += text.ljust((len(text) + 3) // 4 * 4, b'\0')
    return out


def siemens(volume, first, step=3, up=1, number=1, b=None, g=None, turn=OBLIQUE, csa_too=True):
    "A Siemens mosaic: `first` is the place of voxel (0, 0) of slice 0, mm"
    w, h, n = volume.shape
    across = int(np.ceil(np.sqrt(n)))
    corner = first - 0.5 * (across - 1) * (w * 1.5 * turn[0] + h * 2 * turn[1])
    fields = dict(
        Manufacturer='SIEMENS',
        ImageType=['ORIGINAL', 'PRIMARY', 'M', 'ND', 'MOSAIC'],
        ImagePositionPatient=short(corner),
        SpacingBetweenSlices=step,
        SliceThickness=step - 0.5,
        InstanceNumber=number,
        AcquisitionNumber=number,
        AcquisitionMatrix=[w, 0, 0, h],
        InPlanePhaseEncodingDirection='COL',
        **plane(turn),
    )
    ds = dicom(mosaic(volume, across, across), **fields)
    own = ds.private_block(0x19, 'SIEMENS MR HEADER', create=True)
    own.add_new(0x0A, 'US', n)
    if b is not None:
        own.add_new(0x0C, 'IS', str(b))
        if g is not None:
            own.add_new(0x0E, 'FD', list(map(float, g)))
    if csa_too:
        own = ds.private_block(0x29, 'SIEMENS CSA HEADER', create=True)
        told = dict(SliceNormalVector=list(up * turn[2]), NumberOfImagesInMosaic=[n])
        told['AcquisitionMatrixText'] = [f'{h}*{w}']
        if b is not None:
            told |= dict(
                B_value=[b], **({} if g is None else {'DiffusionGradientDirection': list(g)})
            )
        own.add_new(0x10, 'OB', csa(**told))
    return ds


def uih(volume, first, step=3, number=1, b=None, listed=True, turn=OBLIQUE):
    "A UIH mosaic, with the positions of its slices"
    n = volume.shape[2]
    across = int(np.ceil(np.sqrt(n)))
    fields = dict(
        Manufacturer='UIH',
        ImageType=['ORIGINAL', 'PRIMARY', 'M', 'VFRAME'],
        SliceThickness=step,
        InstanceNumber=number,
        AcquisitionMatrix=[volume.shape[0], 0, 0, volume.shape[1]],
        **plane(turn),
    )
    ds = dicom(mosaic(volume, across, int(np.ceil(n / across))), **fields)
    if listed:
        own = ds.private_block(0x65, 'Image Private Header', create=True)
        own.add_new(0x50, 'DS', str(n))
        places = [Dataset() for _ in range(n)]
        for k, p in enumerate(places):
            p.ImagePositionPatient = short(first + step * k * turn[2])
        own.add_new(0x51, 'SQ', places)
        if b is not None:
            own.add_new(0x09, 'FD', float(b))
    return ds


def slices(folder, volumes, first, step=3, turn=OBLIQUE, by_slice=False, more=lambda z, v: {}):
    "One file a slice of (X, Y, Z, V); `more(z, v)` gives further fields"
    nz, nv = volumes.shape[2:]
    for z in range(nz):
        for v in range(nv):
            number = z * nv + v + 1 if by_slice else v * nz + z + 1
            fields = dict(
                InstanceNumber=number,
                ImagePositionPatient=short(first + step * z * turn[2]),
                SliceThickness=step,
                **plane(turn),
            )
            ds = dicom(volumes[..., z, v].T, **{**fields, **more(z, v)})
            save(ds, folder / f'IM_{(7919 * number) % 10007:05d}')
    return folder


def enhanced(volumes, first, step=3, turn=OBLIQUE, bvals=None, g=None, by_slice=True, places=True):
    "One enhanced file of (X, Y, Z, V), frames of a slice after each other"
    nz, nv = volumes.shape[2:]
    pairs = [(z, v) for z in range(nz) for v in range(nv)]
    pairs = pairs if by_slice else sorted(pairs, key=lambda p: p[::-1])
    pixels = np.stack([volumes[..., z, v].T for z, v in pairs])
    ds = dicom(pixels, ENHANCED, ImageType=['ORIGINAL', 'PRIMARY', 'DIFFUSION', 'NONE'])
    ds.NumberOfFrames, ds.InstanceNumber, ds.Manufacturer = len(pairs), 1, 'Philips'
    item = lambda **w: [_item(**w)]
    shared = dict(
        PixelMeasuresSequence=item(PixelSpacing=[2, 1.5], SliceThickness=step),
        PlaneOrientationSequence=item(ImageOrientationPatient=short([*turn[0], *turn[1]])),
    )
    ds.SharedFunctionalGroupsSequence = item(**shared)
    groups = []
    for z, v in pairs:
        place = short(first + step * z * turn[2])
        own = dict(PixelValueTransformationSequence=item(RescaleSlope=0.5, RescaleIntercept=0))
        if places:
            own['PlanePositionSequence'] = item(ImagePositionPatient=place)
        if bvals is not None:
            weight = dict(DiffusionBValue=float(bvals[v]))
            if bvals[v]:
                turned = item(DiffusionGradientOrientation=list(map(float, g[v])))
                weight |= dict(
                    DiffusionDirectionality='DIRECTIONAL', DiffusionGradientDirectionSequence=turned
                )
            own['MRDiffusionSequence'] = item(**weight)
        groups.append(_item(**own))
    ds.PerFrameFunctionalGroupsSequence = groups
    return ds


def _item(**fields):
    ds = Dataset()
    for k, v in fields.items():
        setattr(ds, k, v)
    return ds
