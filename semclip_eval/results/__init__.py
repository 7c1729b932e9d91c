"""The files of a run: one line a question as it goes, one row a run when it is done, and the roll-up of all runs."""
