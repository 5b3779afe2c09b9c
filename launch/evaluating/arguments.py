"""The command line of `launch/evaluate.py`. Imports nothing heavy, so that --help is instant."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from evals.images import AS_IT_IS, MM_ZERO, Sizing

_EXAMPLES = """\
examples:
  launch/evaluate.py --model launch/tiny_base_model --benchmarks chartqa --data DIR --limit 100
  launch/evaluate.py --model Qwen/Qwen3-VL-4B-Instruct --openai http://host:8000/v1 --judge \\
      http://host:9000/v1 --judge-model Qwen/Qwen2.5-14B-Instruct --regime mm_zero
  launch/evaluate.py --run runs/mine --benchmarks chartqa mmmu --data DIR

--data DIR has DIR/NAME.jsonl, DIR/NAME.parquet or a folder DIR/NAME of them for each benchmark.
API keys are read from the environment: EVAL_API_KEY (model), JUDGE_API_KEY (judge)."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/evaluate.py",
        description="Evaluate a model on the benchmarks, by their own rules. The same command "
        "goes on where it was stopped, and asks nothing twice.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _what(parser)
    _where(parser)
    _how(parser)
    options = parser.parse_args(argv)
    if options.while_training and not (options.server and options.name):
        parser.error(
            "--while-training is of the servers of a run: name them with --server, and the weights "
            "that they have now with --name"
        )
    if options.run and (options.blind_baseline or options.name):
        parser.error("--blind-baseline and --name are of one --model")
    if options.server and options.openai:
        parser.error("--server and --openai are two ways to name the same thing: give one")
    if options.run and (options.server or options.openai or options.model):
        parser.error("--run finds its models itself, and starts their servers")
    if options.contamination and not options.run:
        parser.error("--contamination is of what a --run played")
    if not (options.run or options.model):
        parser.error("give --model, or --run")
    if options.crossed:
        if options.server or options.openai or options.run or options.blind_baseline:
            parser.error("--crossed is of two model folders, and starts their servers")
        if options.against or options.name:
            parser.error("--crossed compares its own four; --against and --name are of one model")
        if options.system is None and options.instruction is None:
            parser.error("--crossed: say how the trained model is asked: --system, --instruction")
    if (options.judge is None) != (options.judge_model is None):
        parser.error("--judge and --judge-model go together")
    return options


def sizing_of(options: argparse.Namespace) -> Sizing:
    """How large pictures may be: as the regime says, unless --max-pixels does."""
    if options.max_pixels is not None:
        return Sizing(max_pixels=options.max_pixels)
    return MM_ZERO if options.regime == "mm_zero" else AS_IT_IS


def _what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what")
    group.add_argument("--model", help="a model folder, or an id on the Hub")
    group.add_argument("--run", type=Path, help="a run: its base and all checkpoints of --policy")
    group.add_argument("--policy", default="solver", help="of --run (default: solver)")
    group.add_argument(
        "--benchmarks", nargs="+", default=["all"], metavar="NAME", help="names, or all (default)"
    )
    group.add_argument("--regime", choices=("official", "mm_zero"), default="official")
    group.add_argument(
        "--data", default="hub", help="a local folder of rows, or hub (default): see below"
    )
    group.add_argument("--limit", type=_positive, help="so many rows of each, in whole groups")
    group.add_argument("--out", type=Path, help="default: runs/evals/MODEL")
    group.add_argument(
        "--contamination", action="store_true", help="of --run: compare its games with the rows"
    )
    group.add_argument("--against", type=Path, help="the --out of another model, to compare with")
    group.add_argument(
        "--crossed",
        metavar="BASE",
        help="the model before training: both models, each asked as benchmarks say and as --system "
        "and --instruction do; ability apart from format",
    )
    group.add_argument("--name", help="what reports call the model (default: as --model says)")


def _where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where; default: a server of its own, ended afterwards")
    group.add_argument(
        "--server", nargs="+", metavar="URL", help="SGLang or embedded servers with --model"
    )
    group.add_argument(
        "--while-training",
        action="store_true",
        help="of --server: they play; their weights may be renewed, and play is served first",
    )
    group.add_argument(
        "--openai", nargs="+", metavar="URL", help="OpenAI-compatible servers, URLs up to /v1"
    )
    group.add_argument("--judge", metavar="URL", help="an OpenAI-compatible server, up to /v1")
    group.add_argument("--judge-model", metavar="NAME")
    group.add_argument("--concurrency", type=_positive, default=64, help="requests (default: 64)")
    group.add_argument("--timeout-s", type=float, default=600.0, help="of a request (default: 600)")
    group.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/eval_cache"),
        help="pictures, judge's replies, and pinned revisions",
    )


def _how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how; default: as the benchmark's regime says")
    group.add_argument(
        "--prompt", metavar="NAME", help="another of the authors' prompts, where there are several"
    )
    group.add_argument("--n", type=_positive, default=1, help="samples per question (default: 1)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--temperature", type=float)
    group.add_argument("--top-p", type=float)
    group.add_argument("--max-new-tokens", type=_positive)
    group.add_argument("--max-pixels", type=_positive, help="area of a picture")
    group.add_argument("--blind", action="store_true", help="without the pictures")
    group.add_argument(
        "--blind-baseline", action="store_true", help="also without them: what the pictures add"
    )
    group.add_argument("--system", help='another system prompt; "": none')
    group.add_argument("--instruction", help="a text after each question")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value
