"""Benchmarks: what a hand-over costs, beside what one would use instead. `make bench` runs them; see README.md."""
