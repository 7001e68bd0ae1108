"""What a file is, by its first bytes: so that an error can name a sound file of an unread kind."""

from __future__ import annotations

import pathlib

# (offset, first bytes, name, what to do with it). The first match wins.
_ZIP = "unpack it and name the files in it"
_PICTURE = "save it as PNG"
_KINDS = (
    (128, b"DICM", "a DICOM file", ""),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", ""),
    (0, b"\xff\xd8\xff", "a JPEG picture", ""),
    (0, b"II*\0", "a TIFF picture", ""),
    (0, b"MM\0*", "a TIFF picture", ""),
    (0, b"II+\0", "a BigTIFF picture", _PICTURE),
    (0, b"MM\0+", "a BigTIFF picture", _PICTURE),
    (8, b"WEBP", "a WebP picture", ""),
    (8, b"AVI ", "an AVI video", 'list it under "videos"'),
    (8, b"WAVE", "a WAV sound", "sounds are not read"),
    (0, b"BM", "a BMP picture", ""),
    (0, b"GIF87a", "a GIF picture", _PICTURE),
    (0, b"GIF89a", "a GIF picture", _PICTURE),
    (4, b"ftypheic", "a HEIC picture", _PICTURE),
    (4, b"ftypheix", "a HEIC picture", _PICTURE),
    (4, b"ftypmif1", "a HEIF picture", _PICTURE),
    (4, b"ftypavif", "an AVIF picture", _PICTURE),
    (4, b"ftyp", "an MP4 or MOV video", 'list it under "videos"'),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", 'list it under "videos" as .mkv'),
    (0, b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 picture", _PICTURE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", _PICTURE),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture", _PICTURE),
    (0, b"\xff\x0a", "a JPEG XL picture", _PICTURE),
    (0, b"8BPS", "a Photoshop picture", _PICTURE),
    (0, b"P1\n", "a PBM picture", _PICTURE),
    (0, b"P2\n", "a PGM picture", _PICTURE),
    (0, b"P3\n", "a PPM picture", _PICTURE),
    (0, b"P4\n", "a PBM picture", _PICTURE),
    (0, b"P5\n", "a PGM picture", _PICTURE),
    (0, b"P6\n", "a PPM picture", _PICTURE),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", _PICTURE),
    (0, b"\0\0\1\0", "an icon", _PICTURE),
    (0, b"%PDF", "a PDF document", "save its page as PNG"),
    (0, b"<svg", "an SVG drawing", _PICTURE),
    (344, b"n+1\0", "a NIfTI volume", 'list it under "videos" as .nii'),
    (344, b"ni1\0", "a NIfTI header without its voxels", "convert it to one .nii.gz"),
    (4, b"n+2\0\r\n\x1a\n", "a NIfTI-2 volume", 'list it under "videos" as .nii'),
    (0, b"NRRD", "an NRRD volume", 'list it under "videos" as .nrrd'),
    (0, b"ObjectType", "a MetaImage volume", 'list it under "videos" as .mhd'),
    (0, b"\0\0\0\1\0", "an MGH volume", "convert it to .nii.gz"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its arrays as .npz"),
    (0, b"MATLAB 5.0", "a MATLAB file", "export its arrays as .npz"),
    (0, b"\x93NUMPY", "a .npy array", "write it with numpy.savez_compressed as .npz"),
    (0, b"PK\x03\x04", "a zip archive", _ZIP),
    (0, b"Rar!", "a RAR archive", _ZIP),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ZIP),
    (257, b"ustar", "a tar archive", _ZIP),
    (0, b"\x1f\x8b", "a gzip file", "unpack it"),
    (0, b"BZh", "a bzip2 file", "unpack it"),
    (0, b"\xfd7zXZ\0", "an xz file", "unpack it"),
    (0, b"PAR1", "a Parquet table", "export its media as files"),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "run git lfs pull",
    ),
    (0, b"../.git/annex", "a pointer of git-annex, not the file itself", "run git annex get"),
    (0, b"/annex/objects", "a pointer of git-annex, not the file itself", "run git annex get"),
    (0, b"<!DOCTYPE html", "an HTML page", "fetch it again: a log-in or error page was saved"),
    (0, b"<!doctype html", "an HTML page", "fetch it again: a log-in or error page was saved"),
    (0, b"<html", "an HTML page", "fetch it again: a log-in or error page was saved"),
    (0, b"<?xml", "an XML text", "give the picture or signal itself"),
    (0, b"{", "a JSON text", "give the picture or signal itself"),
)
HEAD_BYTES = 352


def of_bytes(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do with it) for the first bytes of a file; None = no known kind."""
    for offset, magic, name, todo in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            return name, todo
    return None


def of_file(path: pathlib.Path) -> tuple[str, str] | None:
    """`of_bytes` for the file at `path`; None where there is none to read."""
    try:
        with open(path, "rb") as file:
            return of_bytes(file.read(HEAD_BYTES))
    except OSError:
        return None
