"""TRL's GRPO trainer on a stored batch: a worker of `launch/benches/learner.py`.

    PYTHONPATH=. TRL_PYTHON -P launch/benches/trl_grpo.py MODEL BATCH.safetensors --rows 16

Runs in TRL's own environment. The trainer, its training loop, loss, optimiser and metrics are
TRL's; what is replaced is the one method that generates and scores, by one that returns the
stored rollouts as that method would: prompts padded on the left, answers on the right, a picture's
patches repeated for every rollout of it. They come decoded and expanded, so that TRL prepares less
than it does with a processor. Its importance-sampling correction is on, by token, truncated.

--weights given: the correction's weights lie ready, made of the first step's own log-probs before
the time is taken. --weights own: as TRL does it with a sampler of its own, by one more forward.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from launch.benches.turns import Clock, Turns, forget_peak, memory


class Stored(GRPOTrainer):
    """GRPOTrainer whose rollouts are made already."""

    batch: dict[str, Tensor]
    own_weights: bool
    ready_weights: Tensor | None = None

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        rows = as_generated(self.batch, self.accelerator.device)
        kept = {key: rows[key] for key in ("pixel_values", "image_grid_thw") if key in rows}
        sampled = rows["sampling_per_token_logps"]
        if self.own_weights or self.ready_weights is None:
            with torch.no_grad():
                proximal, _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([rows["prompt_ids"], rows["completion_ids"]], 1),
                    torch.cat([rows["prompt_mask"], rows["completion_mask"]], 1),
                    sampled.shape[1],
                    batch_size=self.args.per_device_train_batch_size,
                    num_images=rows.get("num_images"),
                    mm_token_type_ids=rows["mm_token_type_ids"],
                    **kept,
                )
            gap = (proximal - sampled) * rows["completion_mask"]
            weights = gap.exp().clamp(max=self.vllm_importance_sampling_clip_max)
            if self.own_weights:
                rows["old_per_token_logps"] = proximal
            self.ready_weights = weights
        rows["importance_sampling_ratio"] = self.ready_weights
        return rows


def as_generated(batch: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
    """What GRPOTrainer's own generation hands on, of a NAME.safetensors file's tensors."""
    prompts = batch["prompt_ids"].split(batch["prompt_lengths"].tolist())
    answers = batch["answer_ids"].split(batch["answer_lengths"].tolist())
    logprobs = batch["logprobs"].split(batch["answer_lengths"].tolist())

    def padded(parts: Any, *, left: bool = False) -> Tensor:
        side = "left" if left else "right"
        rows = pad_sequence(list(parts), batch_first=True, padding_side=side)
        return rows.to(device)

    prompt_ids = padded(prompts, left=True)
    completion_ids = padded(answers)
    rows: dict[str, Any] = {
        "prompt_ids": prompt_ids,
        "prompt_mask": padded([torch.ones_like(ids) for ids in prompts], left=True),
        "completion_ids": completion_ids,
        "completion_mask": padded([torch.ones_like(ids) for ids in answers]),
        "advantages": batch["advantages"].to(device),
        "num_items_in_batch": batch["answer_lengths"].sum().to(device),
        "sampling_per_token_logps": padded(logprobs),
        "mm_token_type_ids": torch.cat(
            [(prompt_ids == batch["image_token"].item()).int(), torch.zeros_like(completion_ids)], 1
        ),
    }
    places = batch["image"].tolist()
    if max(places) >= 0:
        patches = batch["pixels"].split(batch["grids"].prod(-1).tolist())
        rows["pixel_values"] = torch.cat([patches[place] for place in places]).to(device)
        rows["image_grid_thw"] = batch["grids"][places].to(device)
        rows["num_images"] = [1] * len(places)
    return rows


class Paced(TrainerCallback):
    """Holds the trainer at the beginning of each step until it is told to go, and takes the time.

    A step begins before the batch is laid out and ends when the optimiser has moved.
    """

    def __init__(self, turns: Turns, device: str) -> None:
        self._turns = turns
        self._device = device
        self._clock = Clock()
        self._spent: dict[str, float] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            forget_peak(self._device)
            self._turns.report(versions=versions(), **memory(self._device))
        if not self._turns.wait():
            # Nobody waits for what the trainer would still write.
            os._exit(0)
        self._clock = Clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()
        self._spent = self._clock.read()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        found = {"loss": logs["loss"], "grad_norm": logs["grad_norm"]}
        self._turns.report(**found, **self._spent, **memory(self._device))


def never(**_: Any) -> list[float]:
    """The reward function that a GRPOTrainer must have."""
    raise AssertionError("advantages are given")


def versions() -> str:
    import transformers
    import trl

    return (
        f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("batch", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="per_device_train_batch_size")
    parser.add_argument("--weights", choices=("given", "own"), default="given")
    parser.add_argument("--compile", action="store_true", help="torch_compile")
    parser.add_argument("--checkpointing", action="store_true", help="gradient_checkpointing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lr", type=float, default=1e-5)
    options = parser.parse_args()
    turns = Turns()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    batch = load_file(options.batch)
    num = len(batch["answer_lengths"])
    is_cpu = options.device == "cpu"
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=num // options.rows,
        num_generations=2,
        max_steps=1_000_000,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta1=0.9,
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type="dapo",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.3,
        temperature=1.0,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=2.0,
        gradient_checkpointing=options.checkpointing,
        torch_compile=options.compile,
        bf16=not is_cpu,
        use_cpu=is_cpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    trainer = Stored(
        model=model,
        reward_funcs=never,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["unused"] * num}),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        callbacks=[Paced(turns, options.device)],
    )
    trainer.batch = batch
    trainer.own_weights = options.weights == "own"
    # Set late: in the constructor it would ask for vLLM. From here on it only means that the
    # correction is applied.
    trainer.use_vllm = True
    trainer.train()


if __name__ == "__main__":
    main()
