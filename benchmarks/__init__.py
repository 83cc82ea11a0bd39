"""Figures against references, measured on this machine: `make bench` -> benchmarks/results.json."""
