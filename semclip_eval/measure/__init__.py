"""What a run costs: time by stage, tokens, memory. Measured from outside; no stage contains timing code."""
