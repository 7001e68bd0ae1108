"""Data of one's own to rows: `qoq data import`."""
