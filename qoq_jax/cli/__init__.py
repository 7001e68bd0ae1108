"""The `qoq` command."""
