"""Pairs of pictures that differ in a few things: what the spy game is played about."""
