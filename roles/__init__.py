"""Recipes of self-play methods: prompts, parsers and the rules of the game. No torch."""
