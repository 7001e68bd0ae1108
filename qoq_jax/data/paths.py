"""Paths of media: the one of a file that holds many, and the folder that a path may not leave."""

from __future__ import annotations

import os
import pathlib
import re

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
# FILE::DATASET names an array inside of the file, FILE#3 its fourth recording (from 0), and
# FILE#KEY=VALUE the recording at which the file's one-dimensional array KEY has that value.
# SLIDE#x=..,y=..,width=..,height=.. names a region of a whole slide, VIDEO#start=..,end=.. seconds.
_MEMBER = re.compile(
    r"(.*?\.(?:h5|hdf5|mat|npy))((?:::|#).*)"
    r"|(.*?\.(?:svs|tiff?))(#(?:x|y|width|height|level)=.*)"
    r"|(.*?\.(?:mp4|avi|mov|mkv))(#(?:start|end)=.*)",
    re.IGNORECASE,
)


def split_member(path: str | os.PathLike) -> tuple[str, str]:
    """("exams.hdf5", "::tracings#3") of "exams.hdf5::tracings#3"; (path, "") of a plain path."""
    found = _MEMBER.fullmatch(os.fspath(path))
    if found is None:
        return os.fspath(path), ""
    file, member = (part for part in found.groups() if part is not None)
    return file, member


def is_part(path: str | os.PathLike) -> bool:
    """Whether the path names a region of a slide or an interval of a video: a part of a file that
    is read without the rest of it.
    """
    file, member = split_member(path)
    return bool(member) and file.lower().endswith(SLIDE_SUFFIXES + VIDEO_SUFFIXES)


def is_inside(path: str | os.PathLike, root: str | os.PathLike) -> bool:
    """Whether the file that the path leads to, past all links, lies inside the root."""
    file, _ = split_member(path)
    return pathlib.Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root))
