"""What was measured on scenes that nobody trained on, and in play by the truth of the scenes."""

from collections.abc import Mapping, Sequence
from html import escape

from evals.games import game_signs
from launch.charts import line_chart
from launch.sections.run import Record, Run
from launch.sections.tables import cells, decimal, grid

MEASURES = {
    "solver_easy_t1": "solver, easy questions (mean of samples at T = 1)",
    "solver_hard_t1": "solver, hard questions (mean of samples at T = 1)",
    "coder_render": "coder, drawings that render",
    "coder_faithful": "coder, drawings that show exactly their caption",
    "proposer_valid": "proposer, valid proposals",
    "proposer_diversity": "proposer, diversity",
    "vote_scripted_t1": "voter, the spy found from scripted clues (mean of samples at T = 1)",
    "vote_base_t1": "voter, the spy found from the base's clues",
    "clue_civilian_true": "civilian, clues that are true of their picture",
    "clue_read": "clues that can be read",
}
HONESTY = {
    "solver_easy_greedy": "solver, easy, greedy: more than a cooler distribution?",
    "solver_hard_greedy": "solver, hard, greedy",
    "solver_easy_maj16": "base's vote of 16, easy: what it already knew",
    "solver_hard_maj16": "base's vote of 16, hard",
    "solver_easy_careful": "replies that look before they answer, easy",
    "solver_hard_careful": "replies that look before they answer, hard",
    "solver_easy_boxed": "replies with a boxed answer, easy",
    "solver_hard_boxed": "replies with a boxed answer, hard",
    "proposer_easy_true": "proposals whose easy answer is true of their caption",
    "proposer_real_hard": "proposals whose hard question is one",
    "vote_scripted_greedy": "voter, scripted clues, greedy: more than a cooler distribution?",
    "vote_careful": "votes that look at each clue first",
    "vote_abstains": "votes that abstain",
    "vote_read": "votes that can be read",
    "clue_spy_true": "spy, clues that happen to be true of the civilians' picture",
}
SIGNS = {
    "label_true": "in play, early and late: labels that are true of the picture as drawn",
    "careful": "in play: replies that look before they answer",
    "consistency": "in play: share of the votes for the majority",
    "faithful": "in play: pictures that show their caption",
    "easy_true": "in play: easy answers that are true of the caption",
    "real_hard": "in play: hard questions that are hard ones",
}
"""Of `evals.games`."""
NUM_SIGNS = 100
"""Games at the start and at the end of which the signs are compared."""


def heldout(run: Run) -> str:
    rows = _measure_rows(run, MEASURES)
    if not rows:
        return "<p>Not measured (yet).</p>"
    caption = "Scenes that neither pre-training nor play has seen; intervals over items, 95 %."
    return _measure_table(rows, caption)


def honesty(run: Run) -> str:
    rows = _measure_rows(run, HONESTY)
    games = run.buffer.gallery(NUM_SIGNS)
    early, late = (_signs(part) for part in (games[: len(games) // 2], games[len(games) // 2 :]))
    for name, title in SIGNS.items():
        if early[name] and late[name]:
            first, last = (sum(values) / len(values) for values in (early[name], late[name]))
            row = [f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}"]
            row.append(f"n = {len(early[name])}, {len(late[name])}")
            rows.append(f"<tr><td>{escape(title)}</td>{cells(row)}</tr>")
    if not rows:
        return ""
    caption = (
        "The base's weakness is partly a choice between modes of answering. A gain at T = 1 that "
        "stays below the base's vote of 16 and comes with more careful replies is that choice "
        "changing, not new knowledge."
    )
    return _measure_table(rows, caption)


def dev_curves(run: Run) -> str:
    rows = [row for row in run.of_kind("dev") if row.get("means")]
    charts = []
    for prefix in ("solver", "coder", "proposer", "vote", "clue"):
        names = sorted({n for row in rows for n in row["means"] if n.startswith(f"{prefix}_")})
        series = {
            name.removeprefix(f"{prefix}_"): [
                (row["step"], row["means"][name])
                for row in rows
                if row["means"].get(name) is not None
            ]
            for name in names
        }
        parts = list(series.items())
        for start in range(0, len(parts), 4):
            charts.append(line_chart(f"{prefix} (dev set)", dict(parts[start : start + 4])))
    return grid(charts)


def _signs(games: Sequence[Record]) -> dict[str, list[float]]:
    """Values of `evals.games.game_signs` over the games that have what they need."""
    values: dict[str, list[float]] = {name: [] for name in SIGNS}
    for game in games:
        if isinstance(proposals := game["notes"].get("proposals"), list):
            found = game_signs(proposals)
            for name, own in values.items():
                own += found[name]
    return values


def _measure_rows(run: Run, names: Mapping[str, str]) -> list[str]:
    heldout = (run.summary or {}).get("heldout") or {}
    before, after = heldout.get("before", {}), heldout.get("after", {})
    if not after:  # the run goes on: what was measured so far
        for row in run.of_kind("heldout"):
            (before if "before" in row.get("when", "") else after).update(row.get("means", {}))
    rows = []
    for name, title in names.items():
        if name not in before and name not in after:
            continue
        delta, ci = heldout.get("delta", {}).get(name), heldout.get("ci95", {}).get(name)
        kind = "" if ci is None else "up" if ci[0] > 0 else "down" if ci[1] < 0 else ""
        interval = "" if ci is None else f"{ci[0]:+.3f} .. {ci[1]:+.3f}"
        change = "" if delta is None else f"{delta:+.3f}"
        sides = cells([decimal(before.get(name)), decimal(after.get(name))])
        rows.append(
            f"<tr><td>{escape(title)}</td>{sides}"
            f'<td class="{kind}">{change}</td><td>{interval}</td></tr>'
        )
    return rows


def _measure_table(rows: Sequence[str], caption: str) -> str:
    head = "<tr><th></th><th>before</th><th>after</th><th>change</th><th>95 %</th></tr>"
    return f"<table><caption>{escape(caption)}</caption>{head}{''.join(rows)}</table>"
