"""CLIMB's data sets as data: who made each, what it holds, what it may be used for, how to get it.

sets/           one TOML file per domain, one table per data set
licences.toml   what each licence allows
citations.bib   BibTeX, by the key that a data set names
table.py        reads them into frozen dataclasses and checks every field
select.py       filters, totals and the licence view
show.py         the text of `qoq data info`
"""
