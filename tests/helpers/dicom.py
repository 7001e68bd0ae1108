"""Small DICOM files as the tests want them."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SECRET = "Zyxwvut^Patientname"


def make_dicom(path, pixels=None, syntax=ExplicitVRLittleEndian, elements=(), **fields):
    """A small DICOM file with planted identifiers in every place a leak could start from.

    pixels: grey [h, w] or [n, h, w]; elements: (keyword, VR, value) where the VR matters.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(
        str(path),
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
    )
    dataset.PatientName = dataset.InstitutionName = dataset.PatientComments = SECRET
    dataset.PatientBirthDate = "19010203"
    dataset.Modality = "OT"
    if pixels is not None:
        frames = pixels if pixels.ndim == 3 else pixels[None]
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit, dataset.PixelRepresentation = (
            dataset.BitsStored - 1,
            int(pixels.dtype.kind == "i"),
        )
        stored = pixels if syntax.is_little_endian else pixels.byteswap()
        dataset.PixelData = stored.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    for name, kind, value in elements:
        dataset.add_new(name, kind, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**fields):
    """One item of a sequence."""
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def table(first, entries, bits):
    """An item of a Modality or VOI LUT Sequence."""
    made = Dataset()
    made.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    made.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    made.LUTExplanation = SECRET
    return made
