"""Makes the tiny base models of the embedded default: weak but sane Qwen3-VLs of 1.4 M parameters.

    python launch/tiny_base.py --out DIR [--seed 0] [--steps 4000]    # about 35 minutes, one core
    python launch/tiny_base.py --check DIR                            # measure a folder's bands
    python launch/tiny_base.py --spy --out DIR [--steps 2300]         # about 25 minutes, one core
    python launch/tiny_base.py --spy --check DIR                      # the bands of both games

The shipped folder `launch/tiny_base_model` came of the first command's defaults: 3000 clean steps,
then 1000 with the habits of a weak model (`launch/pretraining/corpus.py`), 1750 CPU-seconds. It was
made in two processes, the second of which continued the first one's state at step 3000. Repeated as
one command, the losses were the same to four digits as far as it was followed (step 1900).

`launch/tiny_spy_model`, of the third, knows the spy game too: it goes on from the shipped folder
with both games in every step, the spy game without weak habits at first
(`launch/pretraining/spy_corpus.py`).
"""

import argparse
import sys
from pathlib import Path

# Lets `python launch/tiny_base.py` find the packages beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHIPPED = Path(__file__).resolve().parent / "tiny_base_model"
SHIPPED_SPY = Path(__file__).resolve().parent / "tiny_spy_model"
STEPS = 4000
SPY_STEPS = 2300


def main() -> int:
    arguments = _arguments()
    # Imported late, so that --help is instant.
    import torch

    # Two threads made training five times slower than one.
    torch.set_num_threads(1)
    if arguments.check is None and arguments.spy:
        make_spy(arguments.out, seed=arguments.seed, steps=arguments.steps or SPY_STEPS)
    elif arguments.check is None:
        make(arguments.out, seed=arguments.seed, steps=arguments.steps or STEPS)
    folder = arguments.check or arguments.out
    return check(folder, items=arguments.items, seed=arguments.seed, spy=arguments.spy)


def make(out: Path, *, seed: int, steps: int) -> None:
    """Train tokenizer and model from scratch and save them as a Hugging Face folder."""
    from launch.pretraining.corpus import Writer, tokenizer_corpus
    from launch.pretraining.model import build_model, save_folder
    from launch.pretraining.sft import Plan, progress_printer, train
    from launch.pretraining.tokenizer import train_tokenizer
    from roles.mm_zero.prompts import load_prompts

    tokenizer = train_tokenizer(tokenizer_corpus())
    model = build_model(tokenizer, seed)
    plan = Plan(steps, seed=seed)
    train(model, Writer(tokenizer, load_prompts("tiny")), plan, on_step=progress_printer(plan))
    save_folder(model, tokenizer, out)


def make_spy(out: Path, *, seed: int, steps: int) -> None:
    """Teach the shipped model the spy game besides what it knows, and save it."""
    from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

    from launch.pretraining.corpus import Writer
    from launch.pretraining.model import save_folder
    from launch.pretraining.sft import Plan, progress_printer, train
    from launch.pretraining.spy_corpus import Mix, SpyWriter
    from roles.mm_zero.prompts import load_prompts
    from roles.vision_zero.prompts import load_prompts as load_spy_prompts

    model = Qwen3VLForConditionalGeneration.from_pretrained(SHIPPED)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
    writer = Writer(tokenizer, load_prompts("tiny"))
    # MM-Zero's habits are there already and stay; its examples are half of those of a full step.
    plan = Plan(steps, seed=seed, weak_from=0.0, lr=2e-3, scenes=12, drawings=6, proposals=7)
    mix = Mix(SpyWriter(writer, load_spy_prompts("tiny")))
    train(model, writer, plan, examples=mix, on_step=progress_printer(plan))
    save_folder(model, tokenizer, out)


def check(folder: Path, *, items: int = 200, seed: int = 0, spy: bool = False) -> int:
    """Print the bands of a folder, with `spy` those of the spy game too; 0 where all hold."""
    from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

    from launch.pretraining.bands import measure
    from launch.pretraining.spy_bands import measure_spy
    from roles.mm_zero.prompts import load_prompts

    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    measured = measure(model, tokenizer, load_prompts("tiny"), items=items, seed=seed)
    print(measured.table())
    missed = measured.outside()
    if spy:
        measured_spy = measure_spy(model, tokenizer, items=items, seed=seed)
        print("\n" + measured_spy.table())
        missed += measured_spy.outside()
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="make the model and write its folder here")
    where.add_argument("--check", type=Path, help="only measure the bands of this folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps",
        type=int,
        help=f"optimizer steps ({STEPS}; {SPY_STEPS} for --spy)",
    )
    parser.add_argument(
        "--spy", action="store_true", help="the model that knows the spy game too, and its bands"
    )
    parser.add_argument("--items", type=int, default=200, help="items of each kind in the bands")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
