"""CLIMB: the seeded climb-mini data set and the conversion of real samples, both as CLIMB-QA rows."""
