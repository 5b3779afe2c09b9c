"""One module for each part that `launch/bench.py` measures: `add_arguments`, and `run`."""
