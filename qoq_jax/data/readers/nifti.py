"""Volumes: NIfTI-1/2 (.nii, .nii.gz) and NRRD, turned to one canonical view.

Canonical: [slices, rows, columns] running inferior to superior, anterior to posterior, patient
right to
patient left: axial slices as a radiologist hangs them (anterior at the top, patient right at the
left of the
picture).
"""

from __future__ import annotations

import io

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

_NRRD_TYPES = {
    "signed char": "i1",
    "int8": "i1",
    "unsigned char": "u1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "signed short": "i2",
    "int16": "i2",
    "unsigned short": "u2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "signed int": "i4",
    "int32": "i4",
    "unsigned int": "u4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "double": "f8",
}
_NRRD_SPACES = {  # axis signs that turn the space into left-posterior-superior
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


def is_volume(path: files.Path) -> bool:
    return files.suffix(path) in (".nii", ".nii.gz", ".nrrd")


def read_volume(path: files.Path) -> np.ndarray:
    """The values (scaled by the header, e.g. to Hounsfield units) as [slices, rows, columns],
    canonical.

    A 4-D NIfTI gives its first volume. Colour volumes are not read.

    Raises:
      DataError: damaged, truncated, declares more than it holds or over 1 GiB, not
        three-dimensional, not
      finite.
    """
    path = files.check_file(path)
    values, to_lps = _nrrd(path) if files.suffix(path) == ".nrrd" else _nifti(path)
    if not np.isfinite(values).all():
        raise DataError(
            "has voxels that are not finite",
            where=str(path),
            hint="write the volume again without NaN",
        )
    return _axial(values, to_lps)


def _axial(values: np.ndarray, to_lps: np.ndarray) -> np.ndarray:
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


def _nifti(path) -> tuple[np.ndarray, np.ndarray]:
    nibabel = files.need("nibabel", "samples", path, "reading NIfTI")
    with files.decoding(path, "NIfTI"):
        stored = path.read_bytes()
        packed = stored[:2] == b"\x1f\x8b"
        head = files.gunzip_head(stored, 1024) if packed else stored[:1024]
        size = files.unpack("<i", head)
        second = size in (540, 469893120)
        kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(head), check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf" or not 3 <= len(shape) <= 5 or min(shape) < 1:
            raise DataError(
                f"is not a grey volume (shape {shape}, {dtype})",
                where=str(path),
                hint="write one 3-D volume of numbers",
            )
        offset = int(header.get_data_offset())
        if not packed and files.suffix(path) == ".nii" and offset < header.single_vox_offset:
            raise DataError(
                "keeps its voxels in another file (.hdr/.img pair)",
                where=str(path),
                hint="convert it to one .nii.gz",
            )
        voxels = int(np.prod(shape[:3], dtype=object))
        total = int(np.prod(shape, dtype=object)) * dtype.itemsize
        files.check_declared(offset + total, len(stored), path, packed)
        data = files.gunzip(stored, files.MAX_ARRAY_BYTES + offset) if packed else stored
        values = np.frombuffer(data, dtype, voxels, offset).reshape(shape[:3], order="F")
        slope, intercept = header.get_slope_inter()
        if slope is not None and (slope, intercept or 0) != (1, 0):
            values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept or 0)
        # NIfTI's world is RAS
        return values, np.diag([-1.0, -1.0, 1.0]) @ header.get_best_affine()[:3, :3]


def _nrrd(path) -> tuple[np.ndarray, np.ndarray]:
    with files.decoding(path, "NRRD"):
        stored = path.read_bytes()
        end = min(
            (
                i + n
                for n, i in ((2, stored.find(b"\n\n")), (4, stored.find(b"\r\n\r\n")))
                if i >= 0
            ),
            default=0,
        )
        if not stored.startswith(b"NRRD") or not 0 < end < 65536:
            raise ValueError("no NRRD header")
        fields = {}
        for line in stored[:end].decode("ascii", "replace").splitlines()[1:]:
            name, colon, value = line.partition(":")
            if colon and not line.startswith("#") and not value.startswith("="):
                fields[name.strip().lower()] = value.strip()
        if "data file" in fields or "datafile" in fields:
            raise DataError(
                "keeps its voxels in another file",
                where=str(path),
                hint="convert it to one .nrrd file",
            )
        dtype = np.dtype(
            ("<" if fields.get("endian", "little") == "little" else ">")
            + _NRRD_TYPES[fields["type"]]
        )
        shape = tuple(int(n) for n in fields["sizes"].split())
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(
                f"is not a grey volume (sizes {shape})",
                where=str(path),
                hint="write one 3-D volume",
            )
        voxels = int(np.prod(shape, dtype=object))
        packed = fields["encoding"] in ("gzip", "gz")
        if not packed and fields["encoding"] != "raw":
            raise DataError(
                "is neither raw nor gzip encoded",
                where=str(path),
                hint="save it with gzip encoding",
            )
        files.check_declared(voxels * dtype.itemsize, len(stored) - end, path, packed)
        data = files.gunzip(stored[end:], files.MAX_ARRAY_BYTES) if packed else stored[end:]
        values = np.frombuffer(data, dtype, voxels).reshape(shape, order="F")
        directions = [
            [float(v) for v in axis.strip("()").split(",")]
            for axis in fields.get("space directions", "(1,0,0) (0,1,0) (0,0,1)").split()
        ]
        signs = _NRRD_SPACES[fields.get("space", "left-posterior-superior").lower()]
        return values, np.diag(signs) @ np.asarray(directions, float).reshape(3, 3).T
