"""The sources' own labels to CLIMB's unified ones: tables with their sources, and pure functions.

tables/          CSV: codes and values, what they become, where that is written
read.py          reads the tables; `value` for sets where one value is one label
ecg.py           SNOMED CT and SCP-ECG codes to seven classes
chest_xray.py    CheXpert's uncertain labels, VinDr-CXR's readers
ct.py            pulmonary embolism (RSPECT, INSPECT), lung nodules (LNDb)
eeg.py           votes of raters (IIIC)
union.py         one vocabulary over data sets
"""
