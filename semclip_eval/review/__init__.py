"""`semclip-eval review`: the table that a reviewer asks for, its Pareto fronts and its corrected tests."""
