"""The probe's log-probs are those of plain transformers, and every weight has a part in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from tests.engine.learner.learner_data import make_rollout
from tests.engine.learner.test_families import plain_logprobs
from tests.engine.test_resume import BASE


def test_the_score_equals_plain_transformers(name: str, folder: Path, plain: Any) -> None:
    trainer = PolicyTrainer("a", folder, LearnerConfig(), total_steps=1)
    probe = trainer.probe
    rollout = make_rollout(0, prompt_ids=probe.prompt_ids, images=probe.images)
    num = len(probe.token_ids)
    rollout = replace(rollout, token_ids=probe.token_ids, logprobs=(0.0,) * num)
    with torch.no_grad():
        expected = plain_logprobs(plain, name, folder, rollout)
    torch.testing.assert_close(torch.tensor(trainer.score()), expected, atol=1e-5, rtol=0)


def test_no_weight_can_differ_without_a_trace() -> None:
    trainer = PolicyTrainer("a", BASE, LearnerConfig(), total_steps=1)
    before = torch.tensor(trainer.score())
    for name, parameter in trainer.model.named_weights():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        assert (torch.tensor(trainer.score()) - before).abs().max() > 1e-4, name
        with torch.no_grad():
            parameter.copy_(kept)
    assert torch.tensor(trainer.score()).equal(before)


def test_the_score_needs_no_ages_of_who_calls_it() -> None:
    """Each publication is probed, whatever the objective makes of ages."""
    cfg = LearnerConfig.model_validate({"objective": {"proximal": "approximated"}})
    trainer = PolicyTrainer("a", BASE, cfg, total_steps=1)
    plain = PolicyTrainer("a", BASE, LearnerConfig(), total_steps=1)
    assert trainer.score() == plain.score()
