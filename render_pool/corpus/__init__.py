"""Documents to draw, by the thousand: ordinary ones, and hostile ones."""
