"""Filters of the catalogue and what licences allow."""

from __future__ import annotations

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.catalogue.select import Filter, permission, reason, select


def names(**filters):
    return [row.name for row in select(Filter(**filters))]


def test_nothing_leaves_out_companions_only():
    assert len(names()) == 45
    assert set(names(companions=True)) - set(names()) == {
        "mimic-iv-ecg",
        "mimic-iv-note",
        "mimic-iv-ed",
        "mimic-iv-demo",
    }


def test_domains():
    assert names(domain="mri,fundus") == [
        "messidor-2",
        "aptos2019",
        "jichi",
        "brain-tumor",
        "brain-tumor-2",
    ]


def test_kinds_of_access_and_words_for_several():
    assert names(access="zenodo") == ["lndb"]
    assert names(access="tcia,zenodo") == ["cbis-ddsm", "cmmd", "lndb"]
    assert set(names(access="physionet")) == {
        row.name
        for row in table.load().values()
        if row.access.kind.startswith("physionet") and not row.companion
    }
    assert not set(names(access="open")) & set(names(access="login"))


def test_a_modality_is_a_part_of_its_words():
    assert names(modality="VIDEO") == ["echonet-dynamic", "covid-blues", "covid-us", "cholec80"]
    assert names(modality="nifti") == ["inspect", "kits23"]


def test_commercial_leaves_out_what_is_forbidden_and_what_is_uncertain():
    chosen = names(licence="commercial")
    assert {"ptb-xl", "cmmd", "bcss", "brain-tumor"} <= set(chosen)
    forbidden = {"mimic-cxr", "ham10000", "kits23", "rspect", "chexpert", "covid-blues"}
    uncertain = {"messidor-2", "busi", "covid-19", "lc25000", "tuab", "aptos2019"}
    assert not set(chosen) & (forbidden | uncertain)


def test_one_licence():
    assert names(licence="CC-BY-3.0") == ["cbis-ddsm"]


def test_filters_are_joined_by_and():
    assert names(domain="ct", licence="commercial", access="open") == ["hemorrhage"]
    assert names(domain="ct", licence="MIT") == []


@pytest.mark.parametrize(
    ("filters", "hint"),
    [
        ({"domain": "dermascopy"}, "did you mean 'dermoscopy'"),
        ({"access": "kagle"}, "did you mean 'kaggle'"),
        ({"licence": "comercial"}, "did you mean 'commercial'"),
    ],
)
def test_a_word_that_nothing_has(filters, hint):
    with pytest.raises(ConfigError, match=hint):
        names(**filters)


def test_no_word_of_non_commercial_licences_is_taken_for_yes():
    for licence in table.licences().values():
        if "-NC-" in licence.id or "noncommercial" in licence.title.lower():
            assert licence.commercial == "no", licence.id
        assert not (licence.share_alike and licence.redistribution == "no")


def test_permissions_and_their_reasons():
    rows = table.load()
    assert permission(rows["rspect"]) == "no" and "non-commercial" in reason(rows["rspect"])
    assert permission(rows["rspect"], "redistribution") == "yes"
    assert permission(rows["busi"]) == "ask" and "Kaggle copy" in reason(rows["busi"])
    assert permission(rows["lndb"]) == "no", "the stricter of two licences counts"
