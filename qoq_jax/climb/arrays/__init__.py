"""Data sets that train encoders: EEG, graphs, inertial sensors and gene expression as arrays with
labels. Which sets there are: `sets.READERS`; their form: `record.Record`; docs/arrays.md.
"""
