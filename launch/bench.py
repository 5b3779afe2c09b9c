"""Measurements of the parts, as ratios from one run.

    python launch/bench.py server [MODEL_DIR] --concurrency 16
    python launch/bench.py render --pictures 60 --rounds 5
    python launch/bench.py render --attack
    python launch/bench.py learner --rounds 7
    python launch/bench.py elastic
    python launch/bench.py weights --sizes-mb 64 1024
    python launch/bench.py staleness --ages 0 2 8 32 --chart staleness.svg
    python launch/bench.py evals
    python launch/bench.py schedule --steps 60 --seeds 0 1 2
    python launch/bench.py soak --minutes 60
    python launch/bench.py monitor
    python launch/bench.py engine --prompt-tokens 1500 --answer-tokens 1000

`server`: tokens/s of the embedded server, over HTTP, against plain `model.generate`.
`render`: processor time per picture of the render pool, against the renderer that MM-Zero
released and against cairosvg alone; or what hostile drawings cost the ordinary ones.
`learner`: sampled tokens trained per second, and memory, against TRL's GRPO trainer.
`elastic`: games per second with servers that follow the demand, against a fixed split.
`weights`: publication against a plain broadcast of the same bytes, its memory, and what it costs
requests in flight.
`staleness`: held-out accuracy by the age of the training data, with off-policy correction and
without.
`evals`: how busy the runner of evaluations keeps a server, against a loop of batches; or what it
keeps through kills.
`schedule`: streaming against the papers' phases, and where the gain is from.
`soak`: whether memory, open files and rate stay as they are.
`monitor`: share of the engine's processor time that goes into watching it, and what browsers cost.
`engine`: requests and groups per core-second of the engine, against plain HTTP and plain inserts.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_PARTS = {
    "server": "tokens/s: embedded server against generate",
    "render": "processor time per picture: render pool against the released renderer",
    "learner": "tokens/s and memory: learner against TRL's GRPO trainer",
    "elastic": "games/s: servers that follow the demand against a fixed split",
    "weights": "GB/s of a publication against a plain broadcast; what it costs requests in flight",
    "staleness": "accuracy by the age of the training data, with correction and without",
    "engine": "requests/s and groups/s that one engine process sustains, and where its time goes",
    "monitor": "processor time of watching a run; what clients of the dashboard cost it",
    "schedule": "wall-clock of streaming against the papers' phases",
    "soak": "memory, open files and rate of a run over an hour",
    "evals": "how busy the runner of evaluations keeps a server; what it keeps through kills",
}


def main() -> None:
    """Run the benchmark that the command line names."""
    # A part is imported when it is asked for: the processes that `render` starts import this file.
    named = next((word for word in sys.argv[1:] if word in _PARTS), None)
    parser = argparse.ArgumentParser(description="measurements of the parts, as ratios")
    parts = parser.add_subparsers(required=True, metavar="{" + ",".join(_PARTS) + "}")
    for name, summary in _PARTS.items():
        part = parts.add_parser(name, help=summary)
        if name == named:
            module = importlib.import_module(f"launch.benches.{name}")
            part.description = module.__doc__
            part.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(part)
            part.set_defaults(run=module.run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
