"""The parts of `launch/evaluate.py`: its arguments, models, servers, and what it shows."""
