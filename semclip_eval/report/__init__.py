"""The report of a results folder: one HTML page, its tables as CSV, Markdown and LaTeX, its plots as PNG and SVG.

Runs become comparisons (`comparisons`), comparisons become lines of numbers (`lines`), lines become tables, plots, a
gallery and the data of the question viewer (`viewer.py`, drawn by `viewer.js`), and the page shows them. Everything is
derived from the files of the runs; nothing here knows the time.
"""
