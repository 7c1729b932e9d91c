"""Finished runs in the file formats of other harnesses (docs/exporting.md)."""
