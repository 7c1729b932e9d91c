"""From an answer to a value: readers of letters and losses, and the statistics of many values."""
