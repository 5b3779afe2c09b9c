"""Rules of one publication, applied to all of its benchmarks."""
