"""What a publication waits for, from how long it took.

How many answers of a busy server it waits for, one after the other, is in no counter. So it is
found by simulating the run that was measured: the wait grows with their number.
"""

from pathlib import Path

from launch.config import RootConfig
from launch.simulation.measured import published_s, service_times_of
from launch.simulation.run import simulate
from launch.simulation.service_times import ServiceTimes

_ROUNDS = 2
_FIRST = 6.0
_STEPS = 30


def learned(run: Path, config: RootConfig, warm_up: int) -> ServiceTimes:
    """All that a run teaches. Raises ConfigError where it does not tell."""
    times = service_times_of(run, config, warm_up)
    return calibrated(config, times, published_s(run, config, warm_up))


def calibrated(
    config: RootConfig, times: ServiceTimes, publish_s: float, *, steps: int = _STEPS
) -> ServiceTimes:
    """The same times, with `answers` by which a publication of `config` takes `publish_s` seconds
    in the mean; none where it takes less than its own work."""
    run = config.run.model_copy(update={"steps": steps})
    config = config.model_copy(update={"run": run})
    low, low_s = 0.0, _publish_s(config, times, 0.0)
    high = _FIRST
    for _ in range(_ROUNDS):  # the wait is nearly a straight line over the number
        slope = (_publish_s(config, times, high) - low_s) / (high - low)
        if slope <= 0:
            break
        high = max(0.0, low + (publish_s - low_s) / slope)
        if high == low:
            break
    return _with_answers(times, high)


def _publish_s(config: RootConfig, times: ServiceTimes, answers: float) -> float:
    return simulate(config, _with_answers(times, answers)).publish_s


def _with_answers(times: ServiceTimes, answers: float) -> ServiceTimes:
    learners = {
        policy: one.model_copy(update={"answers": answers})
        for policy, one in times.learners.items()
    }
    return times.model_copy(update={"learners": learners})
