"""Benchmarks: ratios within one run, counts, and where the time goes."""
