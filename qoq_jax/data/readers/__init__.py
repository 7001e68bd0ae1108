"""Media files -> arrays. Four functions, each strict: what cannot be read whole and sound is a
`DataError`.

  read_image(path)          uint8 [h, w, 3]         PNG, JPEG, TIFF, BMP, WebP; DICOM of one frame
  read_frames(path, count)  uint8 [count, h, w, 3]  NIfTI, NRRD, MetaImage, DICOM, TIFF, .npz, video
  read_ecg(path)            float32 [8, 2500]       I, II, V1..V6; 10 s at 250 Hz; mV
  read_mask(path, frames)   bool [h, w]             a picture, volume or DICOM; nonzero = region

Rules for all: no pickle, no code from files, sizes checked before memory is taken, and no text of a
header (it may identify a patient) ever reaches an array, a row or an error.
"""

from qoq_jax.data.readers.ecg import CUT, REPEATED, read_ecg
from qoq_jax.data.readers.ecg import LENGTHS as ECG_LENGTHS
from qoq_jax.data.readers.ecg import Length as EcgLength
from qoq_jax.data.readers.image import read_image
from qoq_jax.data.readers.mask import read_mask
from qoq_jax.data.readers.video import frame_indices, read_frames

__all__ = [
    "CUT",
    "ECG_LENGTHS",
    "REPEATED",
    "EcgLength",
    "frame_indices",
    "read_ecg",
    "read_frames",
    "read_image",
    "read_mask",
]
