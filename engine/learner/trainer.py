"""One policy's learner: float32 master weights, AdamW and the step counter, as long as the run.

Several trainers live in one process. A step either happened (parameters, optimiser and counter
moved) or it did not (none of them did, bit for bit). Knows nothing of queues, versions or servers.
Over several ranks (`mesh`) every rank calls the same methods in the same order: `step`,
`named_weights` and `trainer_state` are collectives.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from engine.errors import ConfigError
from engine.learner import sharding
from engine.learner.batch import (
    MicroBatch,
    Sample,
    count_tokens,
    micro_batches,
    samples_of,
)
from engine.learner.config import LearnerConfig
from engine.learner.loss import Tokens, diagnostics, policy_loss
from engine.learner.model_family import ModelFamily, PolicyModel, family_of
from engine.types import Group, Rollout, SamplingParams, Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one batch."""

    step: int
    """Steps contained in the weights after the call."""
    skipped: bool
    """True: parameters, optimiser and step counter are as before."""
    reason: str = ""
    """Why it was skipped: `empty`, `no_signal`, `non_finite_loss` or `non_finite_gradient`."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """One optimiser update, or the reason why it was not made."""

    reason: str
    loss: float
    grad_norm: float
    tokens: Sequence[Tokens]


class PolicyTrainer:
    """Trains one policy.

    `model_dir`: the base, or a checkpoint to continue from (then `checkpoint.load` sets the rest).
    `reference`: the KL anchor, from `load_reference`; may be shared between trainers, is never
    changed; needed if `cfg.kl_beta` > 0, else ConfigError. `mesh`: the ranks that share the
    policy; default: all of torch.distributed's, where it is initialised with more than one.
    """

    def __init__(
        self,
        policy: str,
        model_dir: Path,
        cfg: LearnerConfig,
        *,
        total_steps: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        family: ModelFamily | None = None,
        reference: PolicyModel | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self.policy = policy
        self.model_dir = model_dir
        self.cfg = cfg
        self.step_count = 0
        """Batches trained so far: the step of the weights."""
        self.total_steps = total_steps
        self.device = torch.device(device)
        self.family = family or family_of(model_dir)
        self.published_dtype = self.family.dtype
        """Of the weights in the base folder. Published weights are cast to it, and forward and
        backward compute in it; masters, optimiser, softmax and loss are float32."""
        self._mesh = mesh or sharding.world_mesh(self.device)
        self.model = _load(self.family, model_dir, self.device, self._mesh)
        self._named = dict(self.model.weights())
        self.optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=cfg.lr,
            betas=cfg.betas,
            weight_decay=cfg.weight_decay,
            fused=True,
        )
        self._rng = torch.Generator().manual_seed(seed)
        if cfg.kl_beta and reference is None:
            raise ConfigError(f"learner.kl_beta is {cfg.kl_beta} but there is no reference model")
        self._reference = reference

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        if self.cfg.lr_decay == "constant":
            return self.cfg.lr
        return self.cfg.lr * max(0.0, 1 - self.step_count / self.total_steps)

    def step(self, groups: Sequence[Group]) -> StepReport:
        """Train on one batch: `updates_per_step` updates, each on its part of the groups.

        Skipped without a trace where there is nothing to learn or a value is not finite. With
        several updates a later one that is not finite is left out, counted in the metric
        `skipped_updates`; the step is skipped only if none was made.
        """
        started = time.perf_counter()
        samples = samples_of(groups, divide_by_std=self.cfg.divide_by_std)
        if not samples:
            return StepReport(step=self.step_count, skipped=True, reason="empty")
        if not self.cfg.kl_beta and not any(sample.advantage for sample in samples):
            return StepReport(step=self.step_count, skipped=True, reason="no_signal")
        parts = self._parts(groups)
        batches = [self._micro_batches(part) for part in parts]
        # With one update per step pi_prox is pi_theta itself: no forward of its own.
        proximal = [self._frozen(self.model, part) for part in batches] if len(parts) > 1 else None
        updates = [
            self._update(
                part, proximal[i] if proximal else None, num_loss_tokens=count_tokens(all_)
            )
            for i, (part, all_) in enumerate(zip(batches, parts, strict=True))
        ]
        failed = [update.reason for update in updates if update.reason]
        metrics = self._metrics(updates) | {
            "groups": float(len(groups)),
            "rollouts": float(len(samples)),
            "tokens": float(count_tokens(samples)),
            "micro_batches": float(sum(map(len, batches))),
            "advantage_abs_mean": sum(abs(s.advantage) for s in samples) / len(samples),
            "skipped_updates": float(len(failed)),
            "lr": self.lr,
        }
        skipped = len(failed) == len(updates)
        if skipped:
            log.warning("%s: batch skipped at step %d: %s", self.policy, self.step_count, failed[0])
        else:
            self.step_count += 1
        elapsed_s = time.perf_counter() - started
        metrics |= {"seconds": elapsed_s, "tokens_per_s": count_tokens(samples) / elapsed_s}
        reason = failed[0] if skipped else ""
        return StepReport(step=self.step_count, skipped=skipped, reason=reason, metrics=metrics)

    @torch.no_grad()
    def score(self, ids: Sequence[int]) -> list[float]:
        """Log-probs (temperature 1, nats) of ids[1:] given what is before them; a collective."""
        rollout = Rollout(
            policy=self.policy,
            role="probe",
            prompt_ids=tuple(ids[:1]),
            token_ids=tuple(ids[1:]),
            logprobs=(0.0,) * (len(ids) - 1),
            segments=(Segment(0, 0),),
            finish="length",
            sampling=SamplingParams(max_new_tokens=len(ids) - 1),
            text="",
        )
        (batch,) = micro_batches(
            [Sample(rollout, 0.0)],
            encode=self.family.encode,
            expand=self.family.expand,
            token_budget=self.cfg.tokens_per_micro_batch,
        )
        logprobs_T, _ = self.model(batch.to(self.device))
        scores: list[float] = logprobs_T.tolist()
        return scores

    def named_weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """(name in the checkpoint, whole tensor without gradient), cast to `dtype`, by default
        `published_dtype`.

        One tensor is gathered at a time, when it is asked for; every rank must ask for all.
        """
        for name, parameter in self._named.items():
            whole = sharding.whole(parameter.detach())
            yield name, whole.to(dtype or self.published_dtype)

    def trainer_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the weights: AdamW's moments and the shuffling RNG."""
        state = {"rng": self._rng.get_state()}
        for name, parameter in self._named.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"adamw.{key}.{name}"] = sharding.whole(value.detach()).cpu()
        return state

    def restore(
        self, step: int, weights: Mapping[str, Tensor], trainer_state: Mapping[str, Tensor]
    ) -> None:
        """Continue from a checkpoint, exactly. Raises KeyError if a tensor is missing."""
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(sharding.like(weights[name].float(), parameter))
                if f"adamw.step.{name}" in trainer_state:
                    self.optimizer.state[parameter] = {
                        "step": trainer_state[f"adamw.step.{name}"].to(self.device, copy=True),
                        **{
                            key: sharding.like(trainer_state[f"adamw.{key}.{name}"], parameter)
                            for key in ("exp_avg", "exp_avg_sq")
                        },
                    }
        self._rng.set_state(trainer_state["rng"])
        self.step_count = step

    def _parts(self, groups: Sequence[Group]) -> list[list[Sample]]:
        """The samples of each update; groups are shuffled if there are several."""
        num_parts = min(self.cfg.updates_per_step, len(groups))
        order: Iterable[int] = range(len(groups))
        if num_parts > 1:
            order = torch.randperm(len(groups), generator=self._rng).tolist()
        shuffled = [groups[i] for i in order]
        return [
            samples_of(shuffled[i::num_parts], divide_by_std=self.cfg.divide_by_std)
            for i in range(num_parts)
        ]

    def _micro_batches(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        """This rank's micro-batches; all ranks get equally many, so that collectives match."""
        mine = samples if self._mesh is None else sharding.share(samples, self._mesh)
        # A rank without samples runs one of another rank, for nothing.
        batches = micro_batches(
            mine or samples[:1],
            encode=self.family.encode,
            expand=self.family.expand,
            token_budget=self.cfg.tokens_per_micro_batch,
        )
        idle = replace(batches[0], num_sequences=0)
        if not mine:
            batches = [idle]
        if self._mesh is not None:
            most = sharding.maximum(len(batches), self._mesh)
            batches += [idle] * (most - len(batches))
        return [batch.to(self.device) for batch in batches]

    @torch.no_grad()
    def _frozen(self, model: PolicyModel, batches: Sequence[MicroBatch]) -> list[Tensor]:
        return [self._forward(model, batch)[0] for batch in batches]

    def _forward(self, model: PolicyModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        mixed = self.published_dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.published_dtype, enabled=mixed):
            logprobs_T, entropy_T = model(batch)
        return logprobs_T, entropy_T

    def _update(
        self,
        batches: Sequence[MicroBatch],
        proximal: Sequence[Tensor] | None,
        *,
        num_loss_tokens: int,
    ) -> _Update:
        """Gradient of all micro-batches, then one optimiser update if everything is finite."""
        cfg = self.cfg
        loss_sum = torch.zeros((), device=self.device)
        tokens: list[Tokens] = []
        self.optimizer.zero_grad(set_to_none=True)
        for i, batch in enumerate(batches):
            logprobs_T, entropy_T = self._forward(self.model, batch)
            proximal_T = logprobs_T.detach() if proximal is None else proximal[i]
            reference_T = None
            if self._reference is not None and cfg.kl_beta:
                reference_T = self._frozen(self._reference, [batch])[0]
            if batch.num_sequences == 0:
                # Other ranks have more to do: join their collectives, add nothing.
                self._backward(logprobs_T.sum() * 0.0)
                continue
            loss = policy_loss(
                logprobs_T,
                proximal_T,
                batch.sampler_T,
                batch.advantages_T,
                batch.sequences_T,
                num_sequences=batch.num_sequences,
                num_loss_tokens=num_loss_tokens,
                eps_low=cfg.eps_low,
                eps_high=cfg.eps_high,
                dual_clip=cfg.dual_clip,
                weight_cap=cfg.weight_cap,
                sequence_band=cfg.sequence_band,
                kl_beta=cfg.kl_beta,
                reference_T=reference_T,
            )
            self._backward(loss)
            loss_sum += loss.detach()
            tokens.append(
                Tokens(
                    logprobs_T=logprobs_T.detach(),
                    proximal_T=proximal_T,
                    sampler_T=batch.sampler_T,
                    advantages_T=batch.advantages_T,
                    sequences_T=batch.sequences_T,
                    entropy_T=entropy_T,
                )
            )
        for parameter in self._named.values():
            # Without images the vision tower has no gradient on one rank but a zero one on several
            # (`always_see`): AdamW would treat them differently.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = float(sharding.total(loss_sum, self._mesh))
        norm = nn.utils.clip_grad_norm_(self._named.values(), cfg.grad_clip)
        grad_norm = float(sharding.whole(norm))
        reason = ""
        if not math.isfinite(total):
            reason = "non_finite_loss"
        elif not math.isfinite(grad_norm):
            reason = "non_finite_gradient"
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _Update(reason=reason, loss=total, grad_norm=grad_norm, tokens=tokens)

    def _backward(self, loss: Tensor) -> None:
        # Sharded gradients are averaged over the ranks; the loss is a sum over them.
        (loss if self._mesh is None else loss * self._mesh.size()).backward()

    def _metrics(self, updates: Sequence[_Update]) -> dict[str, float]:
        """Over all updates and ranks."""
        cfg = self.cfg
        tokens = sharding.gather_tokens(
            [entry for update in updates for entry in update.tokens], self._mesh
        )
        found = diagnostics(
            tokens,
            eps_low=cfg.eps_low,
            eps_high=cfg.eps_high,
            weight_cap=cfg.weight_cap,
            sequence_band=cfg.sequence_band,
        )
        num = len(updates)
        return found | {
            "loss": sum(update.loss for update in updates) / num,
            "grad_norm": sum(update.grad_norm for update in updates) / num,
        }


def load_reference(path: Path, *, device: torch.device | str = "cpu") -> PolicyModel:
    """A frozen KL anchor from folder `path`, sharded like the trainers where there are ranks."""
    target = torch.device(device)
    model = _load(family_of(path), path, target, sharding.world_mesh(target))
    return model.requires_grad_(False)


def _load(
    family: ModelFamily, path: Path, device: torch.device, mesh: DeviceMesh | None
) -> PolicyModel:
    model = family.load(path, device=device, always_see=mesh is not None)
    if mesh is not None:
        sharding.shard(model, mesh, dtype=family.dtype)
    return model
