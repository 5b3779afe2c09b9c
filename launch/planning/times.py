"""A plan's own numbers as the simulator reads them: `launch/simulate.py CONFIG --times FILE`.

Both are about one workload. What rates count is divided so:

    a prompt     what servers take to read a game's prompts, by the prefixes that a simulated one
                 keeps: of questions about one picture that is the picture
    a step       of a learner: what its tokens cost, prompts and pictures with them, by the sampled
                 token that trains; what it costs whatever they are; what moments cost
    an update    of a server: new weights. What its replies have is read anew, for which a simulated
                 server takes a prompt's time each, and rates the FLOPs of all that they see
"""

from engine.errors import ConfigError
from launch.planning.case import Case
from launch.planning.layouts import Group, Servers
from launch.planning.lengths import NUMBER
from launch.planning.plans import Plan
from launch.planning.rates import (
    decode_step_s,
    publication_s,
    server_s,
    service,
    step_times,
)
from launch.simulation.service_times import (
    EngineTimes,
    LearnerTimes,
    MadeFor,
    Play,
    ServerTimes,
    ServiceTimes,
)
from roles.mm_zero.config import MMZeroConfig

EASY = (0.4, 0.6, 0.8, 1.0, 1.0)
"""Shares of the answers to easy questions that agree, by picture: assumed. Where they are below
`filters.min_easy_share` nothing trains."""
DIVIDED = (0.3, 0.4, 0.5, 0.6, 0.7)
"""The same of hard questions, within `filters.hard_band`: these train. Assumed, too."""
AGREED = (0.9, 1.0)
"""And above it."""


def check_simulated(recipe: str) -> None:
    """Raises ConfigError for a recipe that the simulator does not play."""
    if recipe != "mm_zero":
        raise ConfigError(
            f"--times: the simulator plays mm_zero alone, not {recipe}; leave --times out"
        )


def times_of(plan: Plan) -> ServiceTimes:
    """What work costs by the plan. One kind of server stands for all: the busiest policy's, whose
    replies see nearly as much as those of others. Raises ConfigError as `check_simulated`."""
    check_simulated(plan.case.recipe)
    case, layout, assumed = plan.case, plan.layout, plan.case.assumed
    busiest = max(layout.servers, key=lambda one: server_s(case, one))
    return ServiceTimes(
        servers=_server_times(plan, busiest),
        learners={
            policy: _learner_times(plan, policy, group)
            for group in layout.groups
            for policy in group.policies
        },
        play=_play(case),
        engine=EngineTimes(request_s=1 / assumed.engine_requests_s),
        picture_s=(1 / assumed.renders_per_core_s,),
        made_for=MadeFor(
            model=case.model.name,
            device=case.cluster.device.name,
            ranks={policy: group.ranks for group in layout.groups for policy in group.policies},
        ),
    )


def _server_times(plan: Plan, one: Servers) -> ServerTimes:
    """A step takes what rates say for one reply, and for the plan's batch; for those between as on
    a straight line."""
    case, batch = plan.case, service(plan.case, one).batch
    alone_s, full_s = decode_step_s(case, one, 1), decode_step_s(case, one, batch)
    row_s = (full_s - alone_s) / (batch - 1) if batch > 1 else 0.0
    return ServerTimes(
        step_s=max(0.0, alone_s - row_s),
        row_s=row_s,
        prompt_s=_prompt_s(plan),
        update_s=publication_s(case, 1, via_disk=True) / 2 if plan.via_disk else 0.0,
    )


def _prompt_s(plan: Plan) -> float:
    read_s = sum(service(plan.case, one).prefill_s for one in plan.layout.servers)
    return read_s / sum(role.pictures or role.prompts for role in plan.case.work)


def _learner_times(plan: Plan, policy: str, group: Group) -> LearnerTimes:
    """A folder is written before servers are paused, and read by them; copies are sent to those
    that are paused."""
    case = plan.case
    took = step_times(case, policy, group, plan.layout.training)
    sampled = sum(role.trained * role.answer_tokens for role in case.roles(policy))
    published_s = publication_s(case, 1, via_disk=plan.via_disk)
    return LearnerTimes(
        step_s=took.fixed_s,
        token_s=took.tokens_s / (case.games_per_step * sampled),
        state_s=took.state_s,
        publish_s=published_s / 2 if plan.via_disk else 0.0,
        copy_s=0.0 if plan.via_disk else published_s,
    )


def _play(case: Case) -> Play:
    return Play(
        tokens={
            role.stream: tuple(max(1, round(length)) for length in role.lengths)
            for role in case.work
        },
        parsed=case.assumed.parsed,
        rendered=case.assumed.rendered,
        easy=EASY,
        hard=_hard(case),
    )


def _hard(case: Case) -> tuple[float, ...]:
    """Shares with which about `solver_kept` of the solver's groups train, as in the rates; at most
    those whose easy question divides nobody too much, and at least a few."""
    assert isinstance(case.settings, MMZeroConfig), "see check_simulated"
    least = case.settings.filters.min_easy_share
    passed = sum(share >= least for share in EASY) / len(EASY)
    divided = min(NUMBER, max(1, round(NUMBER * case.assumed.solver_kept / passed)))
    shares = [DIVIDED[i % len(DIVIDED)] for i in range(divided)]
    return (*shares, *(AGREED[i % len(AGREED)] for i in range(NUMBER - divided)))
