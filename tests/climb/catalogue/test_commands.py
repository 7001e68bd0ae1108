"""`qoq data list`, `info` and `licences` as a user sees them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from qoq_jax.cli import main
from qoq_jax.climb.catalogue import show, table


def run(capsys, *arguments):
    code = main.main(["data", *arguments])
    return code, capsys.readouterr().out


LIST = """\
name        domain  records   train   test  labels  licence          commercial  access
lndb        ct        5,561   4,130  1,431       3  CC-BY-NC-ND-4.0  no          zenodo
inspect     ct       23,240  17,434  5,806       5  Stanford-RUA     no          request
kits23      ct          478     361    117       2  CC-BY-NC-SA-4.0  no          git
hemorrhage  ct        2,501   1,986    515       2  CC-BY-4.0        yes         kaggle-dataset

4 data sets, 31,780 records.
commercial: whether it may train a model that is sold; why: qoq data licences
"""


def test_list(capsys):
    kinds = "zenodo,request,git,kaggle-dataset"
    assert run(capsys, "list", "--domain", "ct", "--access", kinds) == (0, LIST)


def test_list_shows_every_data_set_and_a_star(capsys):
    _, out = run(capsys, "list")
    assert "45 data sets, 3,912,959 records." in out
    assert "212,498*" in out and "* train and test" in out


def test_list_of_nothing(capsys):
    code, out = run(capsys, "list", "--domain", "ct", "--licence", "MIT")
    assert code == 0 and "0 data sets" in out


def test_a_narrow_terminal_gets_fewer_columns_and_whole_words():
    rows = [("ptb-xl", "ecg", "21,837", "1", "2", "7", "CC-BY-4.0", "yes", "physionet-open")]
    assert show.fitting(show.COLUMNS, rows, 200) == (list(show.COLUMNS), [list(rows[0])])
    columns, lines = show.fitting(show.COLUMNS, rows, 60)
    assert columns == ["name", "records", "licence", "commercial"]
    widths = [max(len(a), len(b)) for a, b in zip(columns, lines[0], strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 60
    assert show.fitting(show.COLUMNS, rows, 10)[0] == ["name", "records", "commercial"]


def test_a_reader_that_has_enough_leaves_no_traceback():
    """As `| head`: the pipe is closed before all is written."""
    code = "from qoq_jax.cli import main; raise SystemExit(main.main(['data', 'list', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141  # as a command that SIGPIPE ends


def test_json_and_csv_have_the_same_rows(capsys):
    _, text = run(capsys, "list", "--domain", "mri", "--json")
    objects = json.loads(text)
    assert [one["name"] for one in objects] == ["brain-tumor", "brain-tumor-2"]
    assert objects[0]["labels"][1] == "Pituitary Tumor"
    assert objects[0]["access"]["checks"][0] == {"path": "Training/*/*.jpg", "count": 2870}
    assert objects[1]["commercial"] == "ask" and "@misc" in objects[1]["bibtex"][0]
    _, text = run(capsys, "list", "--domain", "mri", "--csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["name"] for line in lines] == ["brain-tumor", "brain-tumor-2"]
    assert lines[0]["labels"].split("; ") == objects[0]["labels"]
    assert json.loads(lines[0]["access"]) == objects[0]["access"]


INFO = """\
brain-tumor-2: Brain MRI images for brain tumor detection

  domain        mri: brain MRI slice, JPEG and PNG
  dimensions    2d
  task          single-label
  labels        yes, no
  in the source folders yes, no
  records       253 (train 202, test 51), unit: slice
  patients      not known
  grouped by    file
  split         our own: seeded, by picture: no patient is given
  QoQ-Med       one of its thirty classification sets
  licence       No licence given (LicenseRef-None), https://choosealicense.com/no-permission/
  commercial    ask: without a licence no right is granted: ask the authors
  passing on    ask
  homepage      https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection
  not certain   patients: not published

How to get it
  route         kaggle-dataset: navoneel/brain-mri-images-for-brain-tumor-detection
  then          qoq data download brain-tumor-2 --root DIR
  complete with yes/* (155)
  complete with no/* (98)

Citation

@misc{chakrabarty2019brain,
  title = {Brain {MRI} Images for Brain Tumor Detection},
  author = {Chakrabarty, Navoneel},
  howpublished = {Kaggle}, year = {2019},
  url = {https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection}
}
"""


def test_info(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert run(capsys, "info", "brain-tumor-2") == (0, INFO)


def test_info_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out = run(capsys, "info", "chexpert")
    facts = out.partition("Citation")[0].splitlines()[2:]
    assert all(len(line) <= 60 or len(line.split()[-1]) > 40 for line in facts)


@pytest.mark.parametrize("kind", ["physionet-open", "tcia", "request"])
def test_info_says_how_to_get_every_kind(kind, capsys):
    for row in table.load().values():
        if row.access.kind == kind:
            _, out = run(capsys, "info", row.name)
            assert row.access.source in out
            assert all(step.split()[0] in out for step in row.access.steps)
            assert (f"qoq data download {row.name}" in out) == (kind != "request")


def test_info_of_a_wrong_name(capsys):
    assert main.main(["data", "info", "mimic-crx"]) == 2
    assert "did you mean 'mimic-cxr'" in capsys.readouterr().err


def test_licences(capsys):
    _, out = run(capsys, "licences", "--domain", "ultrasound")
    lines = out.splitlines()
    order = [line.split()[2] for line in lines[1:5]]
    assert order == ["ask", "ask", "no", "no"], "what may be used comes first"
    assert "0 may train a model that is sold, 2 may not, 2 only if their owners agree." in out
    assert "no legal advice" in out
    blues = next(line for line in lines if line.startswith("covid-blues"))
    assert blues.endswith("ND: only unchanged copies may be passed on")


def test_the_catalogue_imports_nothing_heavy():
    code = "import sys; from qoq_jax.cli import main; main.main(['data', 'list']); "
    code += "print(sorted({'jax', 'grain', 'transformers', 'scipy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
