"""Hydra takes a sweeper from the namespace `hydra_plugins` only; there is nothing else in this folder."""
