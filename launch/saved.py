"""How much of a run is in its checkpoints: what a person is told who stopped it."""

from contextlib import closing

from engine.records import Records
from engine.rundir import RunDir


def unsaved(run: RunDir) -> dict[str, tuple[int, int]]:
    """{policy: (steps in its newest checkpoint, steps that it made)} where the last ones are in
    none; empty: nothing has to be made again. What a crash had undone before is not missed."""
    if not run.database.exists():
        return {}
    with closing(Records.open(run.database)) as records:
        made = records.made()
    saved = {policy: newest_checkpoint(run, policy) for policy in made}
    return {policy: (saved[policy], n) for policy, n in made.items() if saved[policy] < n}


def newest_checkpoint(run: RunDir, policy: str) -> int:
    """Its step; 0 where there is none. Folders get their name once they are whole."""
    steps = (path.name.removeprefix("step-") for path in run.checkpoints(policy).glob("step-*"))
    return max((int(step) for step in steps if step.isdigit()), default=0)
