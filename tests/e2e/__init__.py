"""The one command, run as a user runs it: to its end, through kills, and with bad input."""
