"""Models that transformers can build: one file a family, and what the families share."""
