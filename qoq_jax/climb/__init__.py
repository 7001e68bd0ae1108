"""CLIMB: the generated data set climb-mini and the conversion of real samples, as CLIMB-QA rows."""
