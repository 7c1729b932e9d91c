"""ψ: how well a crop of an image fits a text. `base` holds the interface, one file per kind of scorer."""
