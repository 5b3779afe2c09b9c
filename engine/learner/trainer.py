"""One policy's learner: float32 master weights, AdamW and the step counter, as long as the run.

Several trainers live in one process. A step either happened (parameters, optimiser and counter
moved) or it did not (none of them did, bit for bit). Knows nothing of queues, versions or servers.
Over several ranks (`mesh`) every rank calls the same methods in the same order: `step`, `score`
and `named_weights` are collectives.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from engine.buckets import dtype_name, put_in_one_piece
from engine.errors import BrokenWeightsError, ConfigError, FatalError
from engine.learner import sharding
from engine.learner.batch import MicroBatch, charged_advantages, count_tokens
from engine.learner.config import LearnerConfig
from engine.learner.costs import model_shape, peak_flops, step_flops
from engine.learner.families import ModelFamily, PolicyModel, family_of
from engine.learner.families.base import Seen
from engine.learner.lora import add_adapters, merged_weights, rounded
from engine.learner.loss import KL, Tokens, diagnostics, policy_loss, proximal_logprobs
from engine.learner.objectives import k3
from engine.learner.offload import HostState
from engine.learner.preparation import Part, Prepared, prepare
from engine.learner.sight import Sight
from engine.probe import probe_for
from engine.types import Group, Rollout, SamplingParams, Segment
from engine.weight_names import Sent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one batch."""

    step: int
    """Steps contained in the weights after the call."""
    skipped: bool
    """True: parameters, optimiser and step counter are as before."""
    reason: str = ""
    """Why it was skipped: `empty`, `no_signal`, or one of `bad_batches.REASONS`."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """One optimiser update, or the reason why it was not made."""

    reason: str
    loss: float
    grad_norm: float
    gaps: "_Gaps"
    tokens: Sequence[Tokens]


@dataclass(frozen=True, slots=True)
class _Gaps:
    """Mean |log pi - log mu| in nats per token; nan where there is no such token."""

    all: float
    fresh: float
    """Of tokens that the newest publication sampled: what sampler and learner compute apart."""
    reference: float
    """k3 of the weights before the update to the reference instead, where there is one."""


class PolicyTrainer:
    """Trains one policy.

    `model_dir`: the base, also to continue from a checkpoint, which `checkpoint.load` then reads.
    FatalError where a weight of it is NaN or infinite. `reference`: the KL anchor, from
    `load_reference`; needed if the objective has a KL, else ConfigError. It may be shared between
    trainers, and is never changed, unless the objective moves it (`reference_steps`). `mesh`: the
    ranks that share the policy; default: all of torch.distributed's, where it is initialised with
    more than one.
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
        self.probe = probe_for(self.family.picture_ids, self.family.picture_side)
        """What `score` scores."""
        self.shape = model_shape(model_dir)
        self.published_dtype = self.family.dtype
        """Of the weights in the base folder. Published weights are cast to it, and forward and
        backward compute in it; masters, optimiser, softmax and loss are float32."""
        self._mesh = mesh or sharding.world_mesh(self.device)
        self._peak_flops = _peak_flops(self.device, sharding.size(self._mesh))
        self.model = _load(self.family, model_dir, self.device, self._mesh, cfg, seed)
        self._named = {n: p for n, p in self.model.named_weights() if p.requires_grad}
        """What is trained."""
        # Now, while parameters are sharded: after a forward FSDP2's root has whole ones, which are
        # its own to free.
        self._published = list(merged_weights(self.model))
        self.adapted = frozenset(
            self.model.published_name(name)
            for name, _, adapter in self._published
            if adapter is not None
        )
        """With adapters: published names of the only tensors that ever change."""
        if self._mesh is None and cfg.lora is None and self.published_dtype == torch.float32:
            put_in_one_piece([parameter for _, parameter, _ in self._published])
        self.optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=cfg.lr,
            betas=cfg.betas,
            weight_decay=cfg.weight_decay,
            fused=True,
        )
        self._host_state = HostState(self.optimizer)
        if names := sharding.broken(dict(self.model.named_weights()), self._mesh):
            raise FatalError(f"{model_dir}: weights that are not finite: {', '.join(names[:4])}")
        if cfg.objective.needs_reference and reference is None:
            raise ConfigError(
                f"learner.objective.kl_beta is {cfg.objective.kl_beta} but there is no reference"
            )
        self._reference = reference
        self._anchors: dict[str, nn.Parameter] = {}
        """The reference's weights by the names of `_named`, where it moves."""
        if reference is not None and cfg.objective.moves_reference:
            self._anchors = dict(reference.named_weights())

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        if self.cfg.lr_decay == "constant":
            return self.cfg.lr
        return self.cfg.lr * max(0.0, 1 - self.step_count / self.total_steps)

    def prepare(
        self, groups: Sequence[Group], *, ages: Mapping[int, int] = MappingProxyType({})
    ) -> Prepared:
        """What can be done for a batch before its step, also in a thread while another trains.

        `ages`: {version: age in steps} of the weights that sampled it, at the step. Raises
        ValueError as `preparation.prepare` does.
        """
        return prepare(
            groups,
            cfg=self.cfg,
            family=self.family,
            shape=self.shape,
            rank=sharding.rank(self._mesh),
            ranks=sharding.size(self._mesh),
            ages=ages,
        )

    def step(self, batch: Sequence[Group] | Prepared) -> StepReport:
        """Train on one batch: `updates_per_step` updates, each on its part of the groups.

        Skipped without a trace where there is nothing to learn or a value is not finite. With
        several updates a later one that is not finite is left out, counted in the metric
        `skipped_updates`; the step is skipped only if none was made.

        Raises BrokenWeightsError where a weight is NaN or infinite after it: no good gradient does
        that, a broken optimiser state or memory may. Goes on from a checkpoint only.
        """
        started = time.perf_counter()
        batch = batch if isinstance(batch, Prepared) else self.prepare(batch)
        samples = batch.samples
        if not samples:
            return StepReport(step=self.step_count, skipped=True, reason="empty")
        objective = self.cfg.objective
        has_other_terms = bool(objective.kl_beta or objective.entropy_bonus)
        if not has_other_terms and not any(sample.advantage for sample in samples):
            return StepReport(step=self.step_count, skipped=True, reason="no_signal")
        parts = [part.to(self.device) for part in batch.parts]
        # With one update per step pi_prox is pi_theta itself: no forward of its own.
        kl_in_reward = objective.needs_reference and objective.kl_place == "reward"
        needs_start = objective.proximal == "recomputed" and len(parts) > 1
        at_start: list[list[Tensor] | None] = [None] * len(parts)
        if needs_start or kl_in_reward:
            at_start = [self._frozen(self.model, part) for part in parts]
        references: list[list[Tensor] | None] = [None] * len(parts)
        if objective.needs_reference and self._reference is not None:
            references = [self._frozen(self._reference, part) for part in parts]
        if kl_in_reward:
            parts = [
                self._charge_kl(part, logprobs or [], reference or [])
                for part, logprobs, reference in zip(parts, at_start, references, strict=True)
            ]
        updates = [
            self._update(part, logprobs if needs_start else None, reference)
            for part, logprobs, reference in zip(parts, at_start, references, strict=True)
        ]
        failed = [update.reason for update in updates if update.reason]
        skipped = len(failed) == len(updates)
        metrics = self._metrics(updates) | {
            "groups": float(len(batch.groups)),
            "rollouts": float(len(samples)),
            "tokens": float(count_tokens(samples)),
            "micro_batches": float(sum(len(part.batches) - part.idle for part in parts)),
            "images": float(len({png for s in samples for png in s.rollout.images})),
            "image_passes": float(sum(part.image_passes for part in parts)),
            "advantage_abs_mean": sum(abs(s.advantage) for s in samples) / len(samples),
            "skipped_updates": float(len(failed)),
            "lr": self.lr,
        }
        if skipped:
            log.warning("%s: batch skipped at step %d: %s", self.policy, self.step_count, failed[0])
        else:
            self.step_count += 1
            if names := sharding.broken(self._named, self._mesh):
                raise BrokenWeightsError(
                    f"{self.policy}: weights that are not finite after step {self.step_count}: "
                    f"{', '.join(names[:4])}"
                )
            self._move_reference()
        elapsed_s = time.perf_counter() - started
        metrics |= {
            "seconds": elapsed_s,
            "tokens_per_s": count_tokens(samples) / elapsed_s,
            "flops_per_s": sum(step_flops(part.flops) for part in parts) / elapsed_s,
        }
        if self._peak_flops is not None:
            metrics["mfu"] = metrics["flops_per_s"] / self._peak_flops
        reason = failed[0] if skipped else ""
        return StepReport(step=self.step_count, skipped=skipped, reason=reason, metrics=metrics)

    @torch.no_grad()
    def score(self) -> list[float]:
        """Log-probs (temperature 1, nats) of the tokens of `probe`; a collective."""
        num = len(self.probe.token_ids)
        rollout = Rollout(
            policy=self.policy,
            role="probe",
            prompt_ids=self.probe.prompt_ids,
            images=self.probe.images,
            token_ids=self.probe.token_ids,
            logprobs=(0.0,) * num,
            segments=(Segment(0, 0),),
            finish="length",
            sampling=SamplingParams(max_new_tokens=num),
            text="",
        )
        group = Group(stream="probe", game=0, rollouts=(rollout,), rewards=(0.0,))
        (part,) = prepare(
            [group],
            cfg=self.cfg,
            family=self.family,
            shape=self.shape,
            ages={0: 0},  # of the made-up version; nothing is trained on it
        ).parts
        (logprobs_T,) = self._frozen(self.model, part.to(self.device))
        scores: list[float] = logprobs_T.tolist()
        return scores

    def named_weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """(name in the checkpoint, whole tensor without gradient), cast to `dtype`, by default
        `published_dtype`.

        One tensor is gathered at a time, when it is asked for; every rank must ask for all.
        Adapters are merged into what they adapt (`lora.rounded`).
        """
        wanted = dtype or self.published_dtype
        for name, parameter, adapter in self._published:
            whole = sharding.whole(parameter.detach())
            if adapter is not None:
                a, b = (sharding.whole(factor.detach()).float() for factor in adapter[:2])
                whole = whole.float() + adapter[2] * (b @ a)
                if wanted == torch.bfloat16:
                    whole = rounded(whole, name)
            yield self.model.published_name(name), whole.to(wanted)

    def layout(self) -> dict[str, Sent]:
        """{name: what it is} of `named_weights`, in their order."""
        dtype = dtype_name(self.published_dtype)
        return {
            self.model.published_name(name): Sent(dtype, tuple(parameter.shape))
            for name, parameter, _ in self._published
        }

    def rest(self) -> None:
        """Make room for the other policies of the group until the next step or save."""
        if self.cfg.offload_optimizer:
            self._host_state.evict()

    def trainer_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to continue exactly: masters, AdamW's state, and a reference that
        has moved.

        The live tensors, sharded as the parameters are: copy before the next step.
        """
        self._host_state.fetch()
        state: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            state[f"master.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"adamw.{key}.{name}"] = value
        return state | {f"reference.{name}": p.detach() for name, p in self._anchors.items()}

    def restore(
        self, step: int, names: Collection[str], fill: Callable[[dict[str, Tensor]], None]
    ) -> None:
        """Continue from a checkpoint, exactly: `fill` overwrites the tensors of `trainer_state`,
        whose optimiser state is that of `names`. FatalError where a value is NaN or infinite."""
        self._host_state.fetch()
        self.optimizer.state.clear()
        for name, parameter in self._named.items():
            if f"adamw.step.{name}" in names:
                self.optimizer.state[parameter] = {
                    "step": torch.zeros((), device=self.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        fill(self.trainer_state())
        self.step_count = step
        if broken := sharding.broken(self.trainer_state(), self._mesh):
            raise FatalError(
                f"{self.policy}: its checkpoint of step {step} is not finite in "
                f"{', '.join(broken[:4])}; move it away to go on from the one before"
            )

    @torch.no_grad()
    def _move_reference(self) -> None:
        """Where it is time: the reference is the policy as it is now. Shards go to shards."""
        every = self.cfg.objective.reference_steps
        if self._anchors and every is not None and self.step_count % every == 0:
            for name, anchor in self._anchors.items():
                anchor.copy_(self._named[name])

    def _charge_kl(
        self, part: Part, logprobs: Sequence[Tensor], references: Sequence[Tensor]
    ) -> Part:
        """The part with the KL to the reference taken off the rewards.

        `logprobs`: of the weights at the start of the step. A collective.
        """
        objective = self.cfg.objective
        kl = torch.zeros(len(part.samples), device=self.device)
        for i, batch in enumerate(part.batches[: len(part.batches) - part.idle]):
            kl_T = KL[objective.kl_estimator](logprobs[i], references[i])
            kl.index_add_(0, batch.rollouts_S[batch.sequences_T], kl_T)
        charged = charged_advantages(
            part.groups, sharding.total(kl, self._mesh).cpu(), objective
        ).to(self.device)
        batches = [
            replace(batch, advantages_T=charged[batch.rollouts_S[batch.sequences_T]])
            for batch in part.batches
        ]
        return replace(part, batches=batches)

    @torch.no_grad()
    def _frozen(self, model: PolicyModel, part: Part) -> list[Tensor]:
        """Log-probs [T] of each micro-batch, without gradient."""
        seen = self._look(model, part)
        logprobs = [self._forward(model, batch, seen)[0] for batch in part.batches]
        sharding.release(model)
        return logprobs

    def _look(self, model: PolicyModel, part: Part) -> Seen:
        if not part.shares:
            return ()
        with self._precision():
            return model.look(part.shared)

    def _forward(
        self, model: PolicyModel, batch: MicroBatch, shared: Seen
    ) -> tuple[Tensor, Tensor]:
        with self._precision():
            logprobs_T, entropy_T = model(batch, shared)
        return logprobs_T, entropy_T

    def _precision(self) -> torch.autocast:
        # FSDP2 gathers weights in the published dtype; without it they are cast here.
        mixed = self.published_dtype != torch.float32 and self._mesh is None
        return torch.autocast(self.device.type, dtype=self.published_dtype, enabled=mixed)

    def _update(
        self,
        part: Part,
        proximal: Sequence[Tensor] | None,
        references: Sequence[Tensor] | None,
    ) -> _Update:
        """Gradient of all micro-batches, then one optimiser update if everything is finite.

        `proximal`, `references`: log-probs [T] of each micro-batch, where they are needed.
        """
        cfg = self.cfg
        # The loss, sums and counts of the gaps, and those of the KL to the reference.
        sums = torch.zeros(7, device=self.device, dtype=torch.float64)
        tokens: list[Tokens] = []
        self.optimizer.zero_grad(set_to_none=True)
        sight = Sight(self._look(self.model, part))
        for i, batch in enumerate(part.batches):
            logprobs_T, entropy_T = self._forward(self.model, batch, sight.copies())
            if i >= len(part.batches) - part.idle:
                # Other ranks have more to do: join their collectives, add nothing.
                self._backward(logprobs_T.sum() * 0.0)
                continue
            proximal_T = None if proximal is None else proximal[i]
            loss = policy_loss(
                logprobs_T,
                proximal_T,
                batch.sampler_T,
                batch.advantages_T,
                batch.sequences_T,
                num_sequences=batch.num_sequences,
                num_loss_tokens=count_tokens(part.samples),
                num_loss_sequences=len(part.samples),
                objective=cfg.objective,
                reference_T=None if references is None else references[i],
                entropy_T=entropy_T,
                staleness_T=batch.staleness_T,
            )
            learners_T = logprobs_T.detach() if proximal_T is None else proximal_T
            anchor_T = learners_T
            if cfg.objective.proximal == "approximated":
                anchor_T = proximal_logprobs(
                    logprobs_T, None, batch.sampler_T, objective=cfg.objective,
                    staleness_T=batch.staleness_T,
                )  # fmt: skip
            self._backward(loss)
            sums[0] += loss.detach()
            sums[1:5] += _gap_sums(learners_T, batch)
            if references is not None:
                sums[5] += k3(logprobs_T.detach(), references[i]).double().sum()
                sums[6] += logprobs_T.numel()
            tokens.append(
                Tokens(
                    logprobs_T=logprobs_T.detach(),
                    proximal_T=anchor_T,
                    sampler_T=batch.sampler_T,
                    advantages_T=batch.advantages_T,
                    sequences_T=batch.sequences_T,
                    entropy_T=entropy_T.detach(),
                )
            )
        sight.backward()
        for parameter in self._named.values():
            # Without images the vision tower has no gradient on one rank but a zero one on several
            # (`always_see`): AdamW would treat them differently.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        loss_sum, *gap_sums = sharding.total(sums, self._mesh).tolist()
        gaps = _Gaps(*(_mean(*gap_sums[i : i + 2]) for i in (0, 2, 4)))
        norm = nn.utils.clip_grad_norm_(self._named.values(), cfg.grad_clip)
        grad_norm = float(sharding.whole(norm))
        reason = ""
        if not math.isfinite(loss_sum):
            reason = "non_finite_loss"
        elif gaps.all > cfg.max_gap:
            reason = "exploding_ratio"
        elif not math.isfinite(grad_norm):
            reason = "non_finite_gradient"
        else:
            self._host_state.fetch()
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _Update(reason=reason, loss=loss_sum, grad_norm=grad_norm, gaps=gaps, tokens=tokens)

    def _backward(self, loss: Tensor) -> None:
        # Sharded gradients are averaged over the ranks; the loss is a sum over them.
        (loss if self._mesh is None else loss * self._mesh.size()).backward()

    def _metrics(self, updates: Sequence[_Update]) -> dict[str, float]:
        """Over all updates and ranks."""
        tokens = sharding.gather_tokens(
            [entry for update in updates for entry in update.tokens], self._mesh
        )
        found = diagnostics(tokens, objective=self.cfg.objective)
        num = len(updates)
        fresh = updates[0].gaps.fresh  # later updates compare with weights that have moved
        if math.isfinite(fresh):
            found["sampler_gap"] = fresh
        if math.isfinite(updates[-1].gaps.reference):  # of the weights that have moved furthest
            found["reference_kl"] = updates[-1].gaps.reference
        return found | {
            "loss": sum(update.loss for update in updates) / num,
            "grad_norm": sum(update.grad_norm for update in updates) / num,
        }


def _gap_sums(logprobs_T: Tensor, batch: MicroBatch) -> Tensor:
    """[4] sum and count of |log pi - log mu| over tokens, and over those that are fresh."""
    valid_T = torch.isfinite(batch.sampler_T)
    gap_T = torch.where(valid_T, (logprobs_T.detach() - batch.sampler_T).abs(), 0.0).double()
    fresh_T = valid_T & (batch.staleness_T == 0)
    return torch.stack([gap_T.sum(), valid_T.sum(), gap_T[fresh_T].sum(), fresh_T.sum()])


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan


def load_reference(
    path: Path, *, device: torch.device | str = "cpu", mesh: DeviceMesh | None = None
) -> PolicyModel:
    """A KL anchor from folder `path`, without gradients, sharded like the trainers where there are
    ranks."""
    target = torch.device(device)
    mesh = mesh or sharding.world_mesh(target)
    return _load(family_of(path), path, target, mesh, LearnerConfig(), 0).requires_grad_(False)


def _peak_flops(device: torch.device, num_ranks: int) -> float | None:
    """Of all ranks together; None where a device's is not known."""
    if device.type != "cuda":
        return None
    of_one = peak_flops(torch.cuda.get_device_name(device))
    return None if of_one is None else of_one * num_ranks


def _load(
    family: ModelFamily,
    path: Path,
    device: torch.device,
    mesh: DeviceMesh | None,
    cfg: LearnerConfig,
    seed: int,
) -> PolicyModel:
    # Sharded, it is loaded on the host: FSDP2 moves one group at a time, a device never holds all.
    first = device if mesh is None else torch.device("cpu")
    model = family.load(path, device=first, always_see=mesh is not None)
    if cfg.lora is not None:
        add_adapters(model, cfg.lora, seed=seed, dtype=family.dtype)
    if cfg.activation_checkpointing:
        model.checkpoint_activations()
    if mesh is not None:
        sharding.shard(model, mesh, dtype=family.dtype)
    return model
