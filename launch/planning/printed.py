"""A plan as people read it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from engine.learner.memory import GB, worst
from launch.planning.assumptions import WHY, Assumptions
from launch.planning.case import Case
from launch.planning.config_file import needs, start_line, start_words
from launch.planning.gains import one_more
from launch.planning.layouts import Servers
from launch.planning.plans import Found, Plan
from launch.planning.rates import (
    ENGINE,
    RENDERER,
    SERVERS,
    SHARED,
    server_s,
    servers_of,
    service,
    token_shares,
)

SHOWN = 3
"""Layouts that are listed."""
_LITTLE = 0.005
"""A gain that is none."""


def report(case: Case, found: Found, file: Path | str) -> str:
    """All that is printed of a search, but the configuration itself."""
    model = case.model
    lines = [
        f"{case.recipe} with {model.name} ({model.shape.params / GB:.2f} B parameters) "
        f"on {case.cluster.text}"
    ]
    if model.caveat:
        lines += [f"NOT PLAYABLE TODAY: {model.caveat}"]
    if found.plans:
        lines += ["", *_summary(found.plans[0]), "", *_table(distinct(found.plans)[:SHOWN])]
        lines += ["", *_who(found.plans[0]), "", *_more(found.plans[0])]
    else:
        lines += ["", f"Nothing fits. {_way_out(case)}"]
    if found.refused:
        lines += ["", "What does not fit:", *(f"  {k}: {v}" for k, v in found.refused.items())]
    lines += ["", *_game(case), "", *_assumed(case.assumed)]
    if found.plans:
        lines += ["", start_words(found.plans[0]), f"  {start_line(found.plans[0], file)}"]
    return "\n".join(lines)


def distinct(plans: Sequence[Plan]) -> list[Plan]:
    """The best plan of each way to divide the GPUs."""
    return list({plan.layout.text: plan for plan in reversed(plans)}.values())[::-1]


def _summary(plan: Plan) -> Iterator[str]:
    """The answer in three lines."""
    yield (
        f"Best: {plan.games_per_hour:.0f} games and {plan.steps_per_hour:.1f} steps per policy an "
        "hour, expected by the assumptions below, none measured on a GPU"
    )
    yield f"  {plan.layout.text}"
    yield f"  training {plan.layout.training.text}, {plan.layout.training.tokens} tokens at a time"
    yield f"Bottleneck: {plan.bottleneck}{_reason(plan)}"
    yield from _starved(plan)


def _reason(plan: Plan) -> str:
    for policy, share in token_shares(plan.case).items():
        if plan.bottleneck == servers_of(policy):
            return f", which generate {share:.0%} of the tokens"
    return ""


def _starved(plan: Plan) -> Iterator[str]:
    """Where more games in flight would help the servers that are the bottleneck: whether the one
    that takes most of its time has room for more replies than they offer."""
    case = plan.case
    if not (limiting := plan.limiting_servers):
        return
    busiest = max(limiting, key=lambda one: server_s(case, one))
    does = service(case, busiest)
    if does.batch < does.held:
        yield (
            f"  {busiest.policy}: {does.batch:.0f} replies at a time, of {does.held} that a cache "
            f"holds; its batch is limited by the games in flight ({case.games_in_flight}): more "
            "games per step (--games) would fill it"
        )


def _table(plans: Sequence[Plan]) -> Iterator[str]:
    yield "   games/h  steps/h  GPU memory  bottleneck, and how GPUs are divided"
    for i, plan in enumerate(plans, 1):
        yield (
            f"{i}  {plan.games_per_hour:7.0f}  {plan.steps_per_hour:7.1f}  "
            f"{plan.device_bytes / GB:7.0f} GB  {plan.bottleneck}"
        )
        yield f"{'':3}{plan.layout.text}"
        yield f"{'':3}{plan.layout.training.text}"


def _who(plan: Plan) -> Iterator[str]:
    """Who holds how much and is busy for how long, in the best plan."""
    case, busy = plan.case, plan.busy
    yield "Memory and work of the best:                                          busy"
    for group, estimate in zip(plan.layout.groups, plan.learners, strict=True):
        moment, terms = worst(estimate.device)
        largest = ", ".join(f"{what} {size / GB:.0f}" for what, size in list(terms.items())[:3])
        share = busy.get(f"learners of {', '.join(group.policies)}", busy.get(SHARED, 0.0))
        gpus = "GPU" if group.ranks == 1 else "GPUs"
        yield _row(f"{group.ranks} learner {gpus}: {', '.join(group.policies)}", share)
        yield (
            f"    {estimate.device_bytes / GB:.0f} of {case.cluster.memory / GB:.0f} GB "
            f"({moment}: {largest}); host {estimate.host_bytes / GB:.0f} GB"
        )
    shared = busy.get(SERVERS, busy.get(SHARED, 0.0))
    for one in plan.layout.servers:
        yield _row(
            f"{one.count} {_server_word(one)} of {one.policy}{_where(plan, one)}",
            busy.get(servers_of(one.policy), shared),
        )
        yield f"    {_server(plan, one)}"
    number, workers = plan.engine_processes, plan.render_workers
    each = " each" if number > 1 else ""
    what = f"{number} branches of the engine" if number > 1 else "the engine"
    yield _row(f"{what}, a CPU core each", busy[ENGINE])
    yield _row(f"{workers} render workers{each}, a CPU core each", busy[RENDERER])
    yield f"{needs(plan)}."


def _row(what: str, share: float) -> str:
    return f"  {what:<66}{share:5.0%}"


def _where(plan: Plan, one: Servers) -> str:
    """Whether it has its GPU to itself; where it has not, the GPU's share of time is shown."""
    sharing = plan.layout.sharing
    is_alone = sharing == "none" or (sharing == "light" and one is plan.layout.servers[-1])
    return "" if is_alone else ", on a shared GPU"


def _server_word(one: Servers) -> str:
    word = "server" if one.count == 1 else "servers"
    return f"{word} of {one.tp} GPUs" if one.tp > 1 else word


def _server(plan: Plan, one: Servers) -> str:
    memory, case = one.memory, plan.case
    does = service(case, one, copies=plan.layout.copies(one.policy), via_disk=plan.via_disk)
    return (
        f"weights {memory.weights / GB:.1f} GB, cache {memory.token * memory.tokens / GB:.1f} GB = "
        f"{memory.tokens:,} tokens; {does.batch:.0f} replies at a time, "
        f"{does.tokens_per_s:,.0f} tokens/s each, {does.update_s:.0f} s per update"
    )


def _more(plan: Plan) -> Iterator[str]:
    """Where one more GPU would help."""
    gains = one_more(plan)
    useful = [gain for gain in gains if gain.gain > _LITTLE]
    yield "One more GPU would help most as"
    for gain in useful[:SHOWN]:
        gpus = "" if gain.gpus == 1 else f" ({gain.gpus} GPUs)"
        yield f"  {gain.where}{gpus}: {gain.games_per_hour:.0f} games/h ({gain.gain:+.0%})"
    if not useful:
        yield "  nothing: several resources are equally busy, so it takes one for each"


def _game(case: Case) -> Iterator[str]:
    yield "A game, on average (fewer or more by --tokens ROLE=N):"
    yield "            replies  tokens each  tokens read  generated  trained"
    for role in case.work:
        yield (
            f"  {role.stream:<10}{role.replies:7.1f}  {role.answer_tokens:11.0f}  "
            f"{role.read:11,.0f}  {role.generated:9,.0f}  {role.learnt:7,.0f}"
        )
    yield f"  pictures drawn: {case.renders:.1f}; a step takes {case.games_per_step} games"
    rows = ", ".join(f"{policy} {tokens:,}" for policy, tokens in case.longest_rows.items())
    yield "Learners have room for the longest reply with its prompt, whatever a micro-batch holds:"
    yield f"  {rows} tokens (max_new_tokens; what prompts quote at its longest; context_length)"


def _assumed(assumed: Assumptions) -> Iterator[str]:
    yield "Assumed, not measured on a GPU (change by --assume NAME=VALUE):"
    for field in fields(Assumptions):
        yield f"  {field.name:<19}{getattr(assumed, field.name):<9g}{WHY[field.name]}"


def _way_out(case: Case) -> str:
    if len(case.policies) > 1:
        return "Try --one-policy (all roles share their weights), more GPUs, or a smaller model."
    return "It takes more or larger GPUs, or a smaller model."
