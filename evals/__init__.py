"""Benchmarks, and the procedural held-out set of the embedded default."""
