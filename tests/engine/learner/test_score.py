"""The probe's log-probs are those of plain transformers."""

import torch
from transformers import Qwen3VLForConditionalGeneration

from engine.learner.config import LearnerConfig
from engine.learner.group import PROBE
from engine.learner.trainer import PolicyTrainer
from tests.engine.test_resume import BASE


def test_the_score_equals_plain_transformers() -> None:
    trainer = PolicyTrainer("a", BASE, LearnerConfig(), total_steps=1)
    model = Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32).eval()
    ids = torch.tensor([PROBE])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(trainer.score(PROBE)), expected, atol=1e-5, rtol=0)


def test_the_score_needs_no_ages_of_who_calls_it() -> None:
    """Each publication is probed, whatever the objective makes of ages."""
    cfg = LearnerConfig.model_validate({"objective": {"proximal": "approximated"}})
    trainer = PolicyTrainer("a", BASE, cfg, total_steps=1)
    plain = PolicyTrainer("a", BASE, LearnerConfig(), total_steps=1)
    assert trainer.score(PROBE) == plain.score(PROBE)
