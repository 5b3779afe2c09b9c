"""Entry points: the only package that sees all others."""
