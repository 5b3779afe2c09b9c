"""Reads answers out of what models wrote. Pure, of linear time, never guessing."""
