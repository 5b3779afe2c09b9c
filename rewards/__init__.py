"""Pure functions from values to numbers. No torch, no I/O."""
