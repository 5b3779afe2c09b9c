"""MM-Zero (arXiv 2603.09206): proposer, coder and solver play one game."""
