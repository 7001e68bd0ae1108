"""Paths of media: the one of a file that holds many, and the folder that a path may not leave."""

from __future__ import annotations

import os
import pathlib
import re

# FILE::DATASET names an array inside of the file, FILE#3 its fourth recording (from 0), and
# FILE#KEY=VALUE the recording at which the file's one-dimensional array KEY has that value.
_MEMBER = re.compile(r"(?P<file>.*?\.(?:h5|hdf5|mat|npy))(?P<member>(?:::|#).*)", re.IGNORECASE)


def split_member(path: str | os.PathLike) -> tuple[str, str]:
    """("exams.hdf5", "::tracings#3") of "exams.hdf5::tracings#3"; (path, "") of a plain path."""
    found = _MEMBER.fullmatch(os.fspath(path))
    return (found["file"], found["member"]) if found else (os.fspath(path), "")


def is_inside(path: str | os.PathLike, root: str | os.PathLike) -> bool:
    """Whether the file that the path leads to, past all links, lies inside the root."""
    file, _ = split_member(path)
    return pathlib.Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root))
