"""Every data set of CLIMB is in the catalogue, with its numbers, and the tables hold together."""

from __future__ import annotations

import dataclasses
import re

import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.catalogue import citations, select, table
from qoq_jax.climb.mini import ecg_simulator
from qoq_jax.climb.mini.render import DATASETS
from qoq_jax.data import rows
from qoq_jax.data.labels import listed_labels, split_labels

# Written by hand from the paper's table and the released Dataset_Info.md: name, domain, labels,
# records, train, test.
PAPER = """
ptb-xl           ecg           7    21837   17476   4361
chapman-shaoxing ecg           7    40258   38207   2051
georgia          ecg           7    20689   18622   2067
cpsc2018         ecg           7     6192    4815   1377
iiic             eeg           6   134450       -      -
tuab             eeg           2   409500       -      -
tuev             eeg           6   111900       -      -
mimic-cxr        chest_xray   14   356225  348516   7709
chexpert         chest_xray   14   212498  212243    225
vindr-cxr        chest_xray    6    18000   15000   3000
covid-19         chest_xray    4     2990    2002    988
coronahack       chest_xray    3     5908    5284    624
vindr-mammo      mammography   5    20000   16000   4000
cbis-ddsm        mammography   6     2825    2230    595
cmmd             mammography   2     1872    1404    468
isic-2020        dermoscopy    2    33126   26501   6625
ham10000         dermoscopy    5    10015    8012   2003
pad-ufes-20      dermoscopy    5     2298    1839    459
messidor-2       fundus        5     1744    1394    350
aptos2019        fundus        5     3662    2929    733
jichi            fundus        4     9939    7950   1989
lndb             ct            3     5561    4130   1431
inspect          ct            5    23240   17434   5806
kits23           ct            2      478     361    117
hemorrhage       ct            2     2501    1986    515
rspect           ct            3  1790594 1342945 447649
echonet-dynamic  ultrasound    3    10247    8196   2051
busi             ultrasound    3      780     583    197
covid-blues      ultrasound    2      362     266     96
covid-us         ultrasound    3       99      74     25
brain-tumor      mri           4     3264    2870    394
brain-tumor-2    mri           2      253     202     51
abcd             brain_network 2     9563    7650   1613
abide            brain_network 2     1009     807    202
ppmi             brain_network 2      718     572    143
proteins         molecule      2     1113     890    223
ppi              molecule      0    56944   45555  11389
lc25000          pathology     5    18750   15000   3750
bcss             pathology     4     5264    4211   1053
cholec80         endoscopy     7     7200    5760   1440
hugadb           gait          4      364     291     73
expression-atlas genomics      0     4506    3605    901
geo              genomics      0   126452  101162  25290
mimic-iv         multimodal    4   207769  166215  41554
vital            multimodal    0   210000   42000 168000
"""
LINES = [line.split() for line in PAPER.strip().splitlines()]


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_a_data_set_of_the_paper_has_its_numbers(line):
    name, domain, labels, *numbers = line
    row = table.load()[name]
    assert (row.domain, len(row.labels)) == (domain, int(labels))
    assert [row.records, row.train, row.test] == [None if n == "-" else int(n) for n in numbers]


def test_there_is_nothing_else_but_companions():
    others = set(table.load()) - {line[0] for line in LINES}
    assert others == {"mimic-iv-ecg", "mimic-iv-note", "mimic-iv-ed", "mimic-iv-demo"}
    assert all(table.load()[name].companion for name in others)


def test_records_by_domain():
    assert select.records_by_domain(select.select(select.Filter())) == {
        "ecg": 88_976,
        "chest_xray": 595_621,
        "mammography": 24_697,
        "dermoscopy": 45_439,
        "fundus": 15_345,
        "pathology": 24_014,
        "ct": 1_822_374,
        "mri": 3_517,
        "ultrasound": 11_488,
        "multimodal": 417_769,
        "eeg": 655_850,
        "brain_network": 11_290,
        "molecule": 58_057,
        "endoscopy": 7_200,
        "gait": 364,
        "genomics": 130_958,
    }


def test_numbers_that_do_not_add_up_are_flagged_and_explained():
    wrong = [row for row in table.load().values() if not row.adds_up]
    assert {row.name for row in wrong} == {"chexpert", "abcd", "ppmi"}
    assert all(str(row.train + row.test)[-3:] in row.records_note for row in wrong)
    # Counts that add up, and still are not those of the source.
    assert all(table.load()[name].records_note for name in ("lc25000", "vital", "chapman-shaoxing"))


def test_qoq_med_trains_on_thirty_sets_of_nine_domains():
    chosen = select.select(select.Filter(qoq_med=True))
    assert len(chosen) == 30
    assert {row.domain for row in chosen} == set(rows.DOMAINS) - {"multimodal", "endoscopy"}
    assert all(row.labels for row in chosen)


def test_names_and_domains_are_those_of_rows():
    """What a row says as its data set is understood by the schema as it is."""
    assert table.DOMAINS[: len(rows.DOMAINS)] == rows.DOMAINS
    for row in table.load().values():
        if row.domain in rows.DOMAINS and not row.companion:
            assert rows.DATASET_DOMAIN[row.name] == row.domain


@pytest.mark.parametrize(
    "row", [row for row in table.load().values() if row.labels], ids=lambda row: row.name
)
def test_labels_can_be_asked_and_answered(row):
    """A question can list the vocabulary, and an answer of several labels is cut into the same."""
    question = "Answer with one phrase from the following: " + ", ".join(row.labels)
    assert listed_labels(question) == row.labels
    assert split_labels(" and ".join(row.labels), row.labels) == row.labels


def test_labels_are_those_of_the_generated_sets():
    """A model that learned climb-mini meets the same words."""
    same = {
        "ptb-xl": ecg_simulator.LABELS,
        "covid-19": DATASETS["covid-cxr-mini"].labels,
        "vindr-mammo": DATASETS["mammo-mini"].labels,
        "ham10000": DATASETS["derm-mini"].labels,
        "aptos2019": DATASETS["fundus-mini"].labels,
        "lc25000": DATASETS["path-mini"].labels,
        "rspect": DATASETS["pe-ct-mini"].labels,
        "hemorrhage": DATASETS["head-ct-mini"].labels,
        "brain-tumor": DATASETS["brain-mri-mini"].labels,
        "busi": DATASETS["breast-us-mini"].labels,
    }
    assert {name: table.load()[name].labels for name in same} == same
    assert set(DATASETS["chexpert-mini"].labels) < set(table.load()["chexpert"].labels)


def test_every_citation_is_there_parses_and_is_used():
    used = {key for row in table.load().values() for key in row.citation}
    assert used == set(citations.load())
    for key, entry in citations.load().items():
        fields = citations.fields(entry)
        assert {"title", "author", "year"} <= set(fields), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert key.startswith("aptos") or re.search(fields["year"], key), key
        assert re.fullmatch(r"10\.\d{4,5}/\S+", fields.get("doi", "10.1234/none")), key


def test_a_bibliography_with_a_mistake_is_refused():
    with pytest.raises(DataError, match="x.bib: a: a brace stays open"):
        citations.split("@misc{a, title = {b}", "x.bib")
    with pytest.raises(DataError, match="the key is there twice"):
        citations.split("@misc{a, year={1}}\n@misc{a, year={2}}", "x.bib")


def test_every_licence_is_used():
    used = {row.licence for row in table.load().values()}
    used |= {row.climb_licence for row in table.load().values()} - {""}
    assert used == set(table.licences())


def test_checks_are_paths_inside_the_folder():
    for row in table.load().values():
        for check in row.access.checks:
            assert not check.path.startswith("/") and ".." not in check.path.split("/"), row.name
            assert check.count is None or check.count > 0


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ptb-xl'"):
        table.find("PTBXL")
    with pytest.raises(ConfigError, match="did you mean 'brain-tumor-2'"):
        table.find("brain_tumor_2")


GOOD = dict(
    title="T",
    modality="m",
    dimensionality="2d",
    task="single-label",
    labels=["a", "b"],
    unit="image",
    patient_key="id",
    split="patient",
    split_note="seeded",
    licence="CC0-1.0",
    homepage="https://example.org",
    citation=["k"],
    access=dict(kind="https", source="https://example.org/files/"),
)


def read(fields):
    row = table._build(table.Dataset, {"name": "x", "domain": "ct"} | fields, "ct.toml: x")
    table._check(row, "ct.toml: x")
    return row


def test_a_row_without_a_mistake_is_read():
    assert read(GOOD).records is None
    assert dataclasses.is_dataclass(read(GOOD).access)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"title": ""}, "ct.toml: x: title: must be of type str"),
        ({"records": "12"}, "ct.toml: x: records: must be of type int"),
        ({"records": True}, "ct.toml: x: records: must be of type int"),
        ({"labels": "a, b"}, "ct.toml: x: labels: must be a list"),
        ({"labels": ["a", "a"]}, "ct.toml: x: labels: a label is listed twice"),
        ({"labels": []}, "ct.toml: x: labels: a single-label set needs labels"),
        ({"task": "single label"}, "ct.toml: x: task: .*did you mean 'single-label'"),
        ({"licences": "MIT"}, "ct.toml: x: licences: unknown field .*did you mean 'licence'"),
        ({"licence": "MITT"}, "ct.toml: x: licence: .*did you mean 'MIT'"),
        ({"homepage": "example.org"}, "ct.toml: x: homepage: .* is no https address"),
        ({"records": 3, "train": 1, "test": 1}, "ct.toml: x: records_note"),
        ({"unsure": {"licens": "why"}}, "ct.toml: x: unsure: 'licens' is no field"),
        ({"access": {"kind": "ftp", "source": "s"}}, "ct.toml: x: access: kind: 'ftp' is unknown"),
        ({"access": {"kind": "git"}}, "ct.toml: x: access: source: is missing"),
        (
            {"access": {"kind": "request", "source": "https://example.org"}},
            "ct.toml: x: access.steps: a set on request needs the steps",
        ),
        (
            {"access": GOOD["access"] | {"checks": [{"path": "a", "count": "1"}]}},
            r"ct.toml: x: access: checks\[0\]: count: must be of type int",
        ),
    ],
)
def test_a_mistake_names_file_row_and_field(change, error):
    with pytest.raises(DataError, match=error):
        read(GOOD | change)


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="ct.toml: x: licence: is missing"):
        read({name: value for name, value in GOOD.items() if name != "licence"})
