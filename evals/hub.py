"""Rows from the Hugging Face Hub, at a commit that stays; and whether they may be had at all."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from evals.benchmark import Benchmark
from evals.revisions import pin, pinned

_NO_ENTRY, _NOT_THERE = (401, 403), 404
_GATED = re.compile(r"\bgated\b|Gated")


def rows_of(benchmark: Benchmark, revisions: Path | None) -> tuple[Iterator[Any], str]:
    """(rows, commit that is loaded). Raises ConfigError. Blocking.

    `revisions`: the file that pins the commits (`evals.revisions`).
    """
    datasets, hub = _libraries()
    revision = benchmark.revision
    try:
        revision = _revision(hub, benchmark, revisions)
        parts = [
            datasets.load_dataset(
                benchmark.dataset, config, split=benchmark.split, revision=revision
            )
            for config in benchmark.configs or (None,)
        ]
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise dozens of types, all the user's to mend
        raise _unavailable(benchmark, revision, error) from error
    return _undecoded(datasets, parts), str(revision)


def check_access(benchmarks: Sequence[Benchmark], revisions: Path | None) -> None:
    """Pin all commits, and knock at every data set. Raises ConfigError naming all that can't
    be had. Blocking.

    Without network what is pinned may still be in the cache: whether it is, a load will tell.
    """
    _, hub = _libraries()
    refused: list[str] = []
    is_there = True
    for benchmark in benchmarks:
        revision = benchmark.revision
        try:
            revision = _revision(hub, benchmark, revisions)
            if is_there:
                _knock(hub, benchmark)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  as above
            if revision is None or _is_final(error):
                refused.append(str(_unavailable(benchmark, revision, error)))
            is_there = is_there and (_is_final(error) or _status(error) is not None)
            if refused and not is_there:
                break  # nobody would answer for the others, and each takes its time
    if refused:
        raise ConfigError("\n".join(refused))


def _knock(hub: Any, benchmark: Benchmark) -> None:
    """Raises what the Hub has against reading the files of a data set, gated ones included."""
    knock = getattr(hub.HfApi(), "auth_check", None)
    if knock is not None:  # it is younger than the oldest version that serves
        knock(benchmark.dataset, repo_type="dataset")


def _libraries() -> tuple[Any, Any]:
    """(datasets, huggingface_hub)."""
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise ConfigError(
            "data sets on the Hub are read by Hugging Face datasets, which is not installed: "
            "pip install -e '.[evals]', or give a folder with --data DIR"
        ) from None
    return datasets, huggingface_hub


def _revision(hub: Any, benchmark: Benchmark, revisions: Path | None) -> str:
    """The benchmark's own commit, else the one that is pinned, else the newest, which then is."""
    if benchmark.revision is not None:
        return benchmark.revision
    known = None if revisions is None else pinned(revisions, benchmark.dataset)
    if known is not None:
        return known
    newest = str(hub.HfApi().dataset_info(benchmark.dataset).sha)
    return newest if revisions is None else pin(revisions, benchmark.dataset, newest)


def _unavailable(benchmark: Benchmark, revision: str | None, error: Exception) -> ConfigError:
    """What to tell of a data set that can't be had, with the way out."""
    if _is_no_entry(error):
        page = f"https://huggingface.co/datasets/{benchmark.dataset}"
        way = (
            f"the Hub lets in whom it knows: accept the terms at {page}, then `hf auth login`; "
            f"or leave {benchmark.name} out with --benchmarks"
        )
    else:
        way = (
            "without network, give a folder with --data DIR; or leave "
            f"{benchmark.name} out with --benchmarks"
        )
    return ConfigError(
        f"{benchmark.dataset} at {revision or 'its newest revision'} can't be loaded "
        f"({type(error).__name__}: {str(error)[:500]}); {way}"
    )


def _is_final(error: Exception) -> bool:
    """Whether no cache can help either: the Hub says no, or knows nothing of the kind."""
    return _is_no_entry(error) or _status(error) == _NOT_THERE


def _is_no_entry(error: BaseException) -> bool:
    """Whether the Hub wants to know who asks. By status and by name: the types are not the same in
    all versions, and `datasets` wraps them."""
    is_said = _GATED.search(f"{type(error).__name__}: {error}") is not None
    cause = error.__cause__
    return _status(error) in _NO_ENTRY or is_said or (cause is not None and _is_no_entry(cause))


def _status(error: BaseException) -> Any:
    """The status with which the Hub answered; None where it did not."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _undecoded(datasets: Any, parts: Iterable[Any]) -> Iterator[Any]:
    """Rows with their pictures as files, so that a bad one spoils its own row only."""
    for part in parts:
        for column, feature in part.features.items():
            inner = getattr(feature, "feature", None)
            if isinstance(feature, datasets.Image):
                part = part.cast_column(column, datasets.Image(decode=False))
            elif isinstance(inner, datasets.Image):
                part = part.cast_column(column, type(feature)(datasets.Image(decode=False)))
        yield from part
