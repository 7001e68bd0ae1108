"""cases.html of a run or of an evaluation file: which records and media the viewer gets."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.evaluation import saved
from qoq_jax.report import viewer
from qoq_jax.report.shown import Library

NAMES = {"sft": "before RL", "rl": "after RL", "align": "after alignment"}


def of_run(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    against: str | None = None,
    roots: Mapping[str, str] | None = None,
    report: str = "",
) -> str | None:
    """Writes folder/cases.html; None where the run has no evaluation of the test split.

    Args:
      against, roots: as for `opened_run`.
      report: address of the report that the page links to.

    Raises:
      DataError: an evaluation cannot be read. ConfigError: `roots` has what no row is of.
    """
    out = os.path.join(folder, "cases.html")
    with opened_run(workdir, against, roots) as (sides, library):
        if not sides or not sides[-1].records:
            return None
        name = os.path.basename(storage.absolute(os.fspath(workdir)))
        viewer.write(out, sides, library, f"Cases of {name}", report=report)
    return out


def known_roots(
    workdir: str | os.PathLike, roots: Mapping[str, str] | None = None
) -> dict[str, str]:
    """source -> folder of rows, of those that the run read (data.json) and of `roots`, as far as
    they are there.
    """
    read = files.read_json(os.path.join(workdir, "data.json"), {}).get("sources", {})
    known = {name: entry["root"] for name, entry in read.items()} | dict(roots or {})
    return {name: root for name, root in known.items() if storage.is_dir(root)}


def of_file(
    path: str, out: str, against: str | None = None, roots: Mapping[str, str] | None = None
) -> str:
    """Writes the page of an eval/*.json.

    Args:
      against, roots: as for `opened_run`; without roots there are no media.

    Raises:
      DataError: an evaluation cannot be read. ConfigError: `roots` has what no row is of.
    """
    sides, library = opened_file(path, against, roots)
    viewer.write(out, sides, library, "Cases")
    return out


@contextlib.contextmanager
def opened_run(
    workdir: str | os.PathLike,
    against: str | None = None,
    roots: Mapping[str, str] | None = None,
) -> Iterator[tuple[list[viewer.Side], Library]]:
    """The evaluations of a run to show, none where it has none, and their media.

    Args:
      against: workdir or eval/*.json of what is shown as the one before; default: the evaluation
        before RL.
      roots: source -> folder of rows and media, beside those that the run read.

    Raises:
      DataError: an evaluation cannot be read. ConfigError: `roots` has what no row is of.
    """
    workdir = os.fspath(workdir)
    paths = {stage: os.path.join(workdir, "eval", f"{stage}.json") for stage in saved.STAGES}
    found = {stage: path for stage, path in paths.items() if storage.is_file(path)}
    if not found:
        yield [], Library()
        return
    last = next(iter(found))
    sides = [viewer.Side(NAMES[last], saved.read(found[last])["records"])]
    if against:
        sides.insert(0, _side(against))
    elif last != "sft" and "sft" in found:
        sides.insert(0, viewer.Side(NAMES["sft"], saved.read(found["sft"])["records"]))
    _check_sides(sides, roots)
    there = known_roots(workdir, roots)
    config = files.read_json(os.path.join(workdir, "config.json"), {}, finite=False)
    length = config.get("data", {}).get("ecg_length", "refuse")
    with storage.local_folder(workdir, leave_out=("checkpoints", "compile_cache")) as local:
        galleries = [pathlib.Path(local) / "gallery" / last]
        yield sides, Library(galleries, there, "test", length)


def opened_file(
    path: str, against: str | None = None, roots: Mapping[str, str] | None = None
) -> tuple[list[viewer.Side], Library]:
    """The same of an eval/*.json."""
    content = saved.read(path)
    sides = [_side(against)] if against else []
    sides.append(viewer.Side(_name(path), content["records"]))
    _check_sides(sides, roots)
    return sides, Library((), roots, content.get("split", "test"))


def _check_sides(sides: list[viewer.Side], roots: Mapping[str, str] | None) -> None:
    for side in sides:
        saved.check(side.records)
    check_roots({r["source"] for side in sides for r in side.records}, roots)


def check_roots(sources: Collection[str], roots: Mapping[str, str] | None) -> None:
    """Refuses source -> folder of which no row is, since its media would be missing in silence.

    Raises:
      ConfigError: there is another source than of the rows, or no such folder.
    """
    for name, folder in (roots or {}).items():
        if name not in sources:
            hint = f"name it by the source of its rows, one of {', '.join(sorted(sources))[:200]}"
            raise ConfigError(f"no row is of the source {name!r}", where=str(folder), hint=hint)
        if not storage.is_dir(os.fspath(folder)):
            raise ConfigError("no such folder", where=str(folder), hint="check the path")


def _side(path: str) -> viewer.Side:
    return viewer.Side(_name(path), saved.read(path)["records"])


def _name(path: str) -> str:
    """The last three parts of a path: eval/rl.json of two runs differ in their folder alone."""
    return "/".join(os.path.normpath(path).split(os.sep)[-3:])
