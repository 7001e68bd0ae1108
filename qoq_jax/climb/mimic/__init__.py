"""MIMIC-IV and its companions as questions: length of stay, and death within 48 hours."""
