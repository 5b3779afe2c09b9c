"""What a publication waits for, from how long it took.

How many answers of a busy server it waits for, one after the other, is in no counter. So it is
found by simulating the run that was measured: the wait grows with their number.
"""

from pathlib import Path

from engine.errors import ConfigError
from launch.config import RootConfig
from launch.simulation.measured import published_s, service_times_of
from launch.simulation.run import fewest_steps, simulate
from launch.simulation.service_times import ServiceTimes

_ROUNDS = 2
_FIRST = 6.0
_STEPS = 30
"""At least; more where so many do not fill the window, or make a round of phases."""


def learned(run: Path, config: RootConfig, warm_up: int) -> ServiceTimes:
    """All that a run teaches. Raises ConfigError where it does not tell."""
    times = service_times_of(run, config, warm_up)
    publish_s = published_s(run, config, warm_up)
    try:
        return calibrated(config, times, publish_s)
    except ValueError as error:  # a ConfigError, too
        raise ConfigError(
            f"{run}: it can't be simulated, which would show what its publications wait for: "
            f"{error}; or give --times FILE"
        ) from None


def calibrated(config: RootConfig, times: ServiceTimes, publish_s: float) -> ServiceTimes:
    """The same times, with `answers` by which a publication of `config` takes `publish_s` seconds
    in the mean; none where it takes less than its own work. Raises ConfigError for what can't be
    simulated, and ValueError where that does not get anywhere."""
    # Policies may be as far apart as the window is deep.
    steps = max(_STEPS, fewest_steps(config) + config.streams.age_bound)
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
