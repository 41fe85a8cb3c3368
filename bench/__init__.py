"""Reproducible benchmarks, one command each: `make bench-NAME` prints a table and writes bench/out/NAME.json."""
