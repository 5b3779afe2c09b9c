"""What an evaluation found: numbers with their intervals, and pages to look at every row."""
