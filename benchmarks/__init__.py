"""Scripts that measure, one a table of results/: `python -m benchmarks.NAME` from the repository's root."""
