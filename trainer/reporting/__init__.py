"""Reports of runs and comparisons: they draw and write, and compute nothing."""
