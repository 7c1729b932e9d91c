"""`semclip-eval ask`: one question about one image, the answers of several selectors side by side."""
