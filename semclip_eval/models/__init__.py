"""Vision-language models: one file per family, behind the three stages of `base.VLM`."""
