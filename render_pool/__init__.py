"""SVG in, pictures out: killable worker processes around cairosvg."""
