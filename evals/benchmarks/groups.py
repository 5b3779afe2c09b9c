"""Groups of rows where one row is in several: capabilities, skills."""

from collections.abc import Callable, Iterable, Sequence

from evals.benchmark import Aggregate, Fields, Scored, Unit


def by_each(
    kind: str,
    rows: Sequence[Scored],
    names: Callable[[Fields], Iterable[str]],
    cluster: Callable[[Scored], str],
) -> list[Aggregate]:
    """One aggregate "kind: name" for each name that some row has, in the order of the names."""
    groups: dict[str, list[Unit]] = {}
    for row in rows:
        for name in dict.fromkeys(names(row.fields)):
            groups.setdefault(name, []).append(Unit(cluster(row), row.score))
    return [Aggregate(f"{kind}: {name}", units) for name, units in sorted(groups.items())]
