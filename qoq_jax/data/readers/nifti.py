"""Volumes: NIfTI-1/2 (.nii, .nii.gz), NRRD and MetaImage, turned to one canonical view.

Canonical: [slices, rows, columns] running inferior to superior, anterior to posterior, patient
right to patient left: axial slices as a radiologist hangs them (anterior at the top, patient right
at the left of the picture).
"""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files, grey, kinds, metaimage

# All names that the NRRD format gives its types, but "block" (raw bytes of no number type).
_NRRD_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char, int8, int8_t",
        "u1": "uchar, unsigned char, uint8, uint8_t",
        "i2": "short, short int, signed short, signed short int, int16, int16_t",
        "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
        "i4": "int, signed int, int32, int32_t",
        "u4": "uint, unsigned int, uint32, uint32_t",
        "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
        "int64_t",
        "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(", ")
}
_NRRD_SPACES = {  # axis signs that turn the space into left-posterior-superior
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    # the format's definition: the same frame for a patient who lies face up, head first
    "scanner-xyz": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
_NIFTI_HEADER = {348: "Nifti1Header", 540: "Nifti2Header"}  # bytes of the header: its kind
_NIFTI_KINDS = ("a NIfTI volume", "a NIfTI-2 volume", "a gzip file")


def is_volume(path: files.Path) -> bool:
    return files.suffix(path) in (".nii", ".nii.gz", ".nrrd", *metaimage.SUFFIXES)


def read_volume(path: files.Path) -> np.ndarray:
    """The values (scaled by the header, e.g. to Hounsfield units) as [slices, rows, columns],
    canonical.

    NaN (nothing was measured there) is kept. A scl_slope of 0 means no scaling. A volume of several
    time points or channels is refused: which of them is meant is the user's to say.

    Raises:
      DataError: damaged, truncated, declares more than it holds or over 1 GiB, not one volume of
        numbers, without a usable orientation, or with infinite values.
    """
    path = files.check_file(path)
    if files.suffix(path) in metaimage.SUFFIXES:
        values, to_lps = metaimage.read(path)
    else:
        values, to_lps = _nrrd(path) if files.suffix(path) == ".nrrd" else read_nifti(path)
    with np.errstate(all="ignore"):  # of axes that are not finite
        lengths = np.linalg.norm(to_lps, axis=0)
    if not (np.isfinite(lengths).all() and lengths.all() and _volume(to_lps / lengths) > 1e-6):
        raise DataError(
            "has an orientation (affine) that is not finite or has no volume",
            where=str(path),
            hint="set its sform, qform or space directions",
        )
    return axial(grey.check_finite(values, path), to_lps)


def _volume(axes: np.ndarray) -> float:
    """Of the cell that three unit axes span; 0 = two of them are one."""
    return abs(float(np.linalg.det(axes)))


def axial(values: np.ndarray, to_lps: np.ndarray) -> np.ndarray:
    """values [i, j, k], 3x3 voxel axes in LPS -> [S, P, L], by flips and swaps, never resampled."""
    strength = np.abs(to_lps) / np.maximum(np.linalg.norm(to_lps, axis=0), 1e-12)
    order = [-1, -1, -1]  # order[world axis] = voxel axis; the clearest match is taken first
    for _ in range(3):
        world, voxel = np.unravel_index(np.argmax(strength), (3, 3))
        order[world] = int(voxel)
        strength[world, :] = strength[:, voxel] = -1
    values = values.transpose(order[::-1])
    flips = [int(np.sign(to_lps[world, order[world]]) or 1) for world in (2, 1, 0)]
    return np.ascontiguousarray(values[tuple(slice(None, None, step) for step in flips)])


def read_nifti(path: files.Path) -> tuple[np.ndarray, np.ndarray]:
    """(values [i, j, k] as they are stored, scaled; 3x3 voxel axes in LPS).

    Raises:
      DataError: damaged, truncated, declares more than it holds or over 1 GiB, not one volume.
    """
    path = files.check_file(path)
    nibabel = files.need("nibabel", None, path, "reading NIfTI")
    with files.decoding(path, "NIfTI", _NIFTI_KINDS):
        stored = path.read_bytes()
        packed = stored[:2] == b"\x1f\x8b"
        head = files.gunzip_head(stored, 540) if packed else stored[:540]
        size = files.unpack("<i", head)
        if size not in _NIFTI_HEADER:
            size = files.unpack(">i", head)
        if size not in _NIFTI_HEADER:
            found = kinds.of_bytes(head)
            raise DataError(
                "holds no NIfTI header" + (f": it is {found[0]}" if found else ""),
                where=str(path),
                hint="check what the file is",
            )
        # The header alone: its extensions (histories, free text of any length) are never parsed.
        kind = getattr(nibabel, _NIFTI_HEADER[size])
        header = kind.from_fileobj(io.BytesIO(head[:size]), check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
        _check_volume(shape, dtype, path)
        offset = int(header.get_data_offset())
        if not packed and files.suffix(path) == ".nii" and offset < header.single_vox_offset:
            raise DataError(
                "keeps its voxels in another file (.hdr/.img pair)",
                where=str(path),
                hint="convert it to one .nii.gz",
            )
        voxels = int(np.prod(shape, dtype=object))
        files.check_declared(offset + voxels * dtype.itemsize, len(stored), path, packed)
        data = files.gunzip(stored, files.MAX_ARRAY_BYTES + offset) if packed else stored
        values = np.frombuffer(data, dtype, voxels, offset).reshape(shape[:3], order="F")
        slope, intercept = header.get_slope_inter()
        if slope is not None and (slope, intercept or 0) != (1, 0):
            values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept or 0)
        # NIfTI's world is RAS
        return values, header.get_best_affine()[:3, :3] * [[-1.0], [-1.0], [1.0]]


def _check_volume(shape: tuple[int, ...], dtype: np.dtype, path: pathlib.Path) -> None:
    """Refuses what is not one three-dimensional volume of real numbers."""
    if dtype.kind not in "iuf" or not 3 <= len(shape) <= 7 or min(shape) < 1:
        raise DataError(
            f"is not a grey volume (shape {shape}, {dtype})",
            where=str(path),
            hint="write one 3-D volume of numbers",
        )
    if (several := int(np.prod(shape[3:], dtype=object))) > 1:
        raise DataError(
            f"holds {several} volumes (time points or channels, shape {shape})",
            where=str(path),
            hint="choose one and write it as a 3-D file, e.g. "
            "nibabel.save(image.slicer[..., 0], path)",
        )


def _nrrd(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(values [i, j, k], 3x3 voxel axes in LPS)."""
    with files.decoding(path, "NRRD", ("an NRRD volume",)):
        stored = path.read_bytes()
        ends = [(stored.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n")]
        end = min((start + size for start, size in ends if start >= 0), default=0)
        if not stored.startswith(b"NRRD") or not 0 < end < 65536:
            raise ValueError("no NRRD header")
        fields = _nrrd_fields(stored[:end])
        dtype, shape, packed = _nrrd_layout(fields, path)
        voxels = int(np.prod(shape, dtype=object))
        files.check_declared(voxels * dtype.itemsize, len(stored) - end, path, packed)
        data = files.gunzip(stored[end:], files.MAX_ARRAY_BYTES) if packed else stored[end:]
        values = np.frombuffer(data, dtype, voxels).reshape(shape, order="F")
        space = fields.get("space", "left-posterior-superior").lower()
        if space not in _NRRD_SPACES:
            raise DataError(
                "has a space that does not say where the patient's left, front and head are",
                where=str(path),
                hint="use one of " + ", ".join(_NRRD_SPACES),
            )
        directions = [
            [float(v) for v in axis.split(",")]
            for axis in re.findall(
                r"\(([^()]*)\)", fields.get("space directions", "(1,0,0) (0,1,0) (0,0,1)")
            )
        ]
        axes = np.asarray(directions, float).reshape(3, 3).T
        return values, axes * np.asarray(_NRRD_SPACES[space])[:, None]


def _nrrd_fields(header: bytes) -> dict[str, str]:
    """The fields of an NRRD header; key/value pairs (name:=value) are free text and left out."""
    fields = {}
    for line in header.decode("ascii", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
    return fields


def _nrrd_layout(
    fields: Mapping[str, str], path: pathlib.Path
) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(number type, shape, whether gzip packs it) of the voxels behind an NRRD header."""
    if "data file" in fields or "datafile" in fields:
        raise DataError(
            "keeps its voxels in another file", where=str(path), hint="convert it to one .nrrd file"
        )
    skips = (fields.get(f"{unit}{gap}skip", "0") for unit in ("line", "byte") for gap in (" ", ""))
    if any(int(skip) for skip in skips):
        raise DataError(
            "has lines or bytes to skip before its voxels",
            where=str(path),
            hint="save it again without line skip and byte skip",
        )
    kind = " ".join(fields["type"].lower().split())
    if kind not in _NRRD_TYPES:
        raise DataError(
            "has voxels of a type that is no number",
            where=str(path),
            hint="save it as one of int8 to uint64, float, double",
        )
    order = "<" if fields.get("endian", "little").lower() == "little" else ">"
    dtype = np.dtype(order + _NRRD_TYPES[kind])
    shape = tuple(int(n) for n in fields["sizes"].split())
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"is not a grey volume (sizes {shape})", where=str(path), hint="write one 3-D volume"
        )
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DataError(
            "is neither raw nor gzip encoded", where=str(path), hint="save it with gzip encoding"
        )
    return dtype, shape, encoding != "raw"
