"""CLIMB: the catalogue of its data sets, their labels, the generated data set climb-mini and the
conversion of real samples, as CLIMB-QA rows.
"""
