"""`semclip-eval ask --serve`: a page on this machine where one asks; the models stay loaded between questions."""
