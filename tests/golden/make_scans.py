#!/usr/bin/env python3
"""Small DICOM files, and what a viewer shows of them: scans/*.dcm and scans.safetensors.

    make_scans.py FOLDER

Pixels are made up. What is shown is pydicom's modality transformation (apply_modality_lut) and window (apply_windowing), by which the darkest is -1 and the
brightest 1. Needs numpy, Pillow, pydicom and safetensors.
"""
import io, pathlib, sys

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom import uid
from safetensors.numpy import save_file

HEIGHT, WIDTH = 13, 15


def pattern(low, high):
    """Smooth, and every value from low to high in reach."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wave = np.sin(x * 0.5) + np.cos(y * 0.4)
    return np.rint(low + (wave + 2) / 4 * (high - low)).astype(np.int64)


def scan(values, allocated, stored, signed, syntax=uid.ExplicitVRLittleEndian, **elements):
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"2.25.{1000 + allocated + stored}"
    d.SeriesInstanceUID, d.StudyInstanceUID = "2.25.77", "2.25.78"
    d.SpecificCharacterSet = "ISO_IR 192"
    d.PatientName, d.PatientID, d.Modality = "홍^길동", "7", "OT"
    d.Rows, d.Columns, d.SamplesPerPixel = values.shape[0], values.shape[1], 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = allocated, stored, stored - 1, int(signed)
    for name, value in elements.items():
        setattr(d, name, value)
    raw = (values & ((1 << stored) - 1)).astype("<u2" if allocated == 16 else "u1").tobytes()
    d.PixelData = raw + b"\0" * (len(raw) % 2)
    d["PixelData"].VR = "OW" if allocated == 16 else "OB"
    return d


def shown(d, values, ends=None):
    units = apply_modality_lut(values, d)
    if ends is None:
        out = apply_windowing(units, d).astype(np.float64)
        # pydicom's range is that of the stored values after the modality's transformation.
        low, high = apply_windowing(np.array([-1e6, 1e6]), d)
    else:
        out, (low, high) = np.clip(units, *ends), ends
    out = 2 * (out - low) / (high - low) - 1
    return (-out if d.PhotometricInterpretation == "MONOCHROME1" else out).astype(np.float32)


def main():
    folder = pathlib.Path(sys.argv[1])
    scans = folder / "scans"
    scans.mkdir(exist_ok=True)
    values, files, truth = {}, {}, {}

    # Hounsfield units, with padding around and bone beyond the window; two windows, a private element and a sequence.
    v = pattern(-500, 1700)
    v[0] = v[-1] = -2000
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-D3000", "가슴"
    d = scan(v, 16, 16, True, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 300], WindowWidth=[400, 1500],
             PixelPaddingValue=-2000, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], DerivationDescription="Smoothed",
             AnatomicRegionSequence=Sequence([item]), SmallestImagePixelValue=-2000)
    d.private_block(0x0009, "ELSEWHERE", create=True).add_new(1, "LO", "kept")
    files["ct"], values["ct"] = d, v
    # 12 of 16 bits, no window, types not named in the file.
    v = pattern(3, 4000)
    files["mr"], values["mr"] = scan(v, 16, 12, False, uid.ImplicitVRLittleEndian, RescaleSlope="0.5", RescaleIntercept=0), v
    # The least value is white; run-length coded.
    v = pattern(0, 1023)
    d = scan(v, 16, 10, False, PhotometricInterpretation="MONOCHROME1", WindowCenter=500, WindowWidth=800, VOILUTFunction="LINEAR_EXACT")
    d.compress(uid.RLELossless, v.astype(np.uint16), encoding_plugin="pydicom", generate_instance_uid=False)
    files["cr"], values["cr"] = d, v
    # 8 bits, an odd number of bytes, its types named.
    v = pattern(0, 255)
    files["eight"], values["eight"] = scan(v, 8, 8, False, uid.ExplicitVRLittleEndian, WindowCenter=128, WindowWidth=256), v
    # Baseline JPEG; what Pillow decodes.
    d = scan(v, 8, 8, False, uid.JPEGBaseline8Bit, WindowCenter=128, WindowWidth=256, LossyImageCompression="01")
    buffer = io.BytesIO()
    Image.fromarray(v.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    d.PixelData = encapsulate([buffer.getvalue()])
    d["PixelData"].is_undefined_length = True
    files["jpeg"], values["jpeg"] = d, np.asarray(Image.open(buffer)).astype(np.int64)

    for name, d in files.items():
        d.save_as(scans / f"{name}.dcm", enforce_file_format=True)
        ends = (values[name].min() * 0.5, values[name].max() * 0.5) if name == "mr" else None
        truth[name] = shown(d, values[name], ends)
        truth[f"{name}.stored"] = values[name].astype(np.float32)

    # What is refused.
    v = pattern(0, 255)
    bad = {
        "frames": scan(np.concatenate([v, v]), 8, 8, False, Rows=HEIGHT, NumberOfFrames=2),
        "colours": scan(np.concatenate([v, v, v]), 8, 8, False, Rows=HEIGHT, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=1),
        "huge": scan(v, 8, 8, False, Rows=65535, Columns=65535),
        "cut": scan(v, 8, 8, False, Rows=HEIGHT + 2),
        "palette": scan(v, 8, 8, False, PhotometricInterpretation="PALETTE COLOR"),
        "flat": scan(v, 8, 8, False, RescaleSlope=0, RescaleIntercept=1),
        "none": scan(v, 8, 8, False),
    }
    del bad["none"].PixelData
    for name, d in bad.items():
        d.save_as(scans / f"bad-{name}.dcm", enforce_file_format=True)
    save_file(truth, folder / "scans.safetensors")


if __name__ == "__main__":
    main()
