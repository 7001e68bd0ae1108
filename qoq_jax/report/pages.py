"""The pages of a run: report.html, and cases.html beside it, each with a link to the other."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping

from qoq_jax.report import cases_page
from qoq_jax.report import report as report_page


def write(
    workdir: str | os.PathLike,
    out: str | os.PathLike | None = None,
    against: str | None = None,
    roots: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Writes both pages; {"report": path, "cases": path}, without "cases" where the run has no
    evaluation of the test split.

    Args:
      out: of the report; default: workdir/report.html.
      against, roots: as for `cases_page.opened_run`.

    Raises:
      DataError: there is nothing to report on, or a file of the run is damaged.
    """
    out = os.fspath(out or os.path.join(workdir, "report.html"))
    folder, name = os.path.split(out)
    cases = cases_page.of_run(workdir, folder, against, roots, report=urllib.parse.quote(name))
    viewer = os.path.basename(cases) if cases else ""
    made = {"report": os.fspath(report_page.write_report(workdir, out, viewer))}
    return made | ({"cases": cases} if cases else {})
