"""What the parts of a run are called where they tell of their work."""

from engine.config import LayoutConfig
from engine.monitor.bottleneck import LEARNER


def learner_parts(layout: LayoutConfig) -> dict[str, str]:
    """{policy: its learner group, as a part that works}: "learner" where there is one group, else
    "learner/" and the policies of the group."""
    if len(layout.learners) == 1:
        return dict.fromkeys(layout.learners[0].policies, LEARNER)
    return {
        policy: f"{LEARNER}/{'+'.join(group.policies)}"
        for group in layout.learners
        for policy in group.policies
    }
