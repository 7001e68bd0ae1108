"""The files of a medium: many formats keep their numbers in another file than the one that a row
names (the signals of a WFDB header, the voxels of a MetaImage, the JSON file beside bare numbers).

Only headers are read to find them, never signals or voxels.
"""

from __future__ import annotations

import os
import pathlib

from qoq_jax.data import media, paths
from qoq_jax.data import rows as schema
from qoq_jax.data.readers import ecg_arrays, files, metaimage, slide, video, wfdb

_ONE_FILE = (".npz", ".dcm", ".xml")  # ECGs


def media_of(row: schema.Row) -> tuple[str, ...]:
    """The paths that a row names, mask included."""
    mask = (row.segmentation_path,) if row.segmentation_path else ()
    return (*row.images, *row.videos, *row.time_series, *mask)


def cut(path: files.Path, frames: int) -> bytes:
    """A region of a slide or an interval of a video (`paths.is_part`) as a file of its own, which
    the readers take in its place under the whole name.

    Args:
      frames: of an interval; readers that ask for another number refuse it.

    Raises:
      DataError: the slide or the video cannot be read.
    """
    of_video = files.suffix(paths.split_member(path)[0]) in paths.VIDEO_SUFFIXES
    return video.cut(path, frames) if of_video else slide.cut(path)


def files_of(row: schema.Row, root: files.Path) -> list[str]:
    """Paths below the data folder of all files that the readers of a row open, each once: those
    that it names and those that belong to them. A named one may be missing, which is for its reader
    to say.

    Args:
      root: the data folder or its URL, of which only headers and JSON files are fetched (of a WFDB
        record that is named by its signals these too).

    Raises:
      DataError: a header is damaged, or names a file that is not there or outside of the folder.
    """
    found: dict[str, None] = {}
    for path in media_of(row):
        name, _ = paths.split_member(path)
        suffix = files.suffix(name)
        if path in row.time_series:
            several = suffix not in _ONE_FILE
        else:
            several = suffix in metaimage.SUFFIXES
        if not several:
            found[name] = None
            continue
        with media.opened(root) as folder:
            top = os.path.realpath(folder)
            file = pathlib.Path(top, name)
            of_it = _of_ecg(file, folder) if path in row.time_series else _of_volume(file, folder)
            for one in of_it:
                found[os.path.relpath(one, top).replace(os.sep, "/")] = None
    return list(found)


def _of_volume(path: pathlib.Path, root: files.Path) -> list[pathlib.Path]:
    voxels = metaimage.voxels_file(path, root)
    return [path] if voxels == path else [path, voxels]


def _of_ecg(path: pathlib.Path, root: files.Path) -> list[pathlib.Path]:
    if files.suffix(path) in ecg_arrays.SUFFIXES and files.suffix(path) not in wfdb.SIGNAL_SUFFIXES:
        header = None
    else:
        header = wfdb.find_header(path)
    if header is not None:
        record = wfdb.record_files(header, root)
        # A record may be named without extension, which is no file then.
        return record if header.name == f"{path.name}.hea" else [path, *record]
    if files.suffix(path) in ecg_arrays.SUFFIXES:
        facts = ecg_arrays.facts_file(path, root)
        return [path] if facts is None else [path, facts]
    return [path]
