"""What work costs: the numbers a simulation starts from. All seconds are CPU or GPU seconds of the
process that works, as if nobody else wanted its core."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from engine.config import Section, load

Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Samples = Annotated[tuple[Seconds, ...], Field(min_length=1)]


class ServerTimes(Section):
    """Of one rollout server, whatever it serves."""

    step_s: Seconds
    """A decode step of n rows takes step_s + row_s * n."""
    row_s: Seconds
    prompt_s: Seconds = 0.0
    """To compute a prompt that is not kept from an earlier request; nothing decodes meanwhile."""
    request_s: Seconds = 0.0
    """To receive and to answer a request."""
    update_s: Seconds = 0.0
    """To take in new weights."""


class LearnerTimes(Section):
    """Of one learner group, for the batches of one policy."""

    step_s: Seconds
    """A step on n sampled tokens takes step_s + state_s + token_s * n."""
    state_s: Seconds = 0.0
    """Of a step, work on the optimiser's state (offloaded moments), of which each rank has its
    share: divided when a layout is scaled, as token_s is."""
    token_s: Seconds
    publish_s: Seconds = 0.0
    """A publication's own work, beside what it waits for servers; with `weights.overlap` that of
    the copy, for which training waits."""
    copy_s: Seconds = 0.0
    """Of a publication, for each copy that a rank sends: the ranks share the policy's servers, each
    of which gets a copy of its own, and all are paused until the last has it. With
    `weights.via: disk` there is one, a folder that all read at once."""
    answers: Seconds = 0.0
    """Answers of a server that a publication waits for, one after the other. A server answers
    between two decode steps."""


class EngineTimes(Section):
    """Of the engine's process."""

    request_s: Seconds = 0.0
    """For each request to a server, its share of games, groups and records included."""


class Play(Section):
    """What the roles say, as chances. Tuples are samples, each as likely as the others."""

    tokens: Mapping[str, Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]]
    """{role: lengths of its rollouts}."""
    parsed: Share = 1.0
    """Share of proposals in the form that was asked for."""
    drawn: Share = 1.0
    """Share of the coder's replies that hold an SVG."""
    rendered: Share = 1.0
    """Share of these SVGs that become a picture."""
    boxed: Share = 1.0
    """Share of the answers that are in a box."""
    easy: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.9,)
    """Of pictures, the share of the answers to the easy question that are what most say."""
    hard: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5,)
    """The same for the hard question."""


class MadeFor(Section):
    """What times were worked out for; of another model or layout they would tell nothing."""

    model: str
    """The base's name, or its folder: the last part counts."""
    device: str
    """A GPU of servers and learners, for messages."""
    ranks: Mapping[str, Annotated[int, Field(ge=1)]]
    """{policy: learner ranks whose times these are}."""


class ServiceTimes(Section):
    """All that a simulation has to know of machines and models."""

    servers: ServerTimes
    learners: Mapping[str, LearnerTimes]
    """By policy."""
    play: Play
    engine: EngineTimes = EngineTimes()
    picture_s: Samples = (0.0,)
    """Of a render worker, for one picture."""
    cores: float | None = Field(None, gt=0)
    """Shared by all processes; None: each has what it needs. GPUs are shared as the layout says."""
    made_for: MadeFor | None = None
    """None: for whatever is simulated, which nothing checks."""


def read_service_times(path: Path) -> ServiceTimes:
    """From YAML. Raises ConfigError that names the field."""
    return load(ServiceTimes, path)


def service_times_yaml(times: ServiceTimes) -> str:
    return yaml.safe_dump(
        times.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=98
    )


def write_service_times(times: ServiceTimes, path: Path) -> None:
    path.write_text(service_times_yaml(times))
