"""One file per selector; `base` holds what a selector is given and must give back."""
