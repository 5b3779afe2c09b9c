"""Links to servers that are being made, each by a thread of its own.

A server can answer the call and then never join the group, or hang: its link takes until the
time-out, and holds up nobody else's.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, wait
from functools import partial

from engine.errors import FatalError, WeightSyncError
from engine.learner import proof
from engine.learner.spec import LearnerSpec
from engine.server_link import ServerLink, in_thread
from engine.weight_names import Sent

log = logging.getLogger(__name__)

Layout = Mapping[str, Sent]


class Connections:
    """What a sender asks for links. Used by one thread."""

    def __init__(self, spec: LearnerSpec) -> None:
        self._spec = spec
        self._tied = proof.is_tied(spec.base)
        self._verified: set[str] = set()
        """Servers whose names, shapes and dtypes are ours."""
        self._begun: dict[str, Future[ServerLink]] = {}

    def make(self, layouts: Mapping[str, Layout], patience_s: float) -> dict[str, ServerLink]:
        """New links to those of these servers ({url: what it is to hold}) that have taken part.

        All are asked at once. Who has not joined after `patience_s` is found here when it has, at
        a later call, which no longer waits for it. Raises FatalError where a server does not hold
        the weights that we have.
        """
        fresh = [url for url in layouts if url not in self._begun]
        for url in fresh:
            self._begun[url] = in_thread(partial(self._connect, url, layouts[url]))
        wait([self._begun[url] for url in fresh], patience_s)
        links = {}
        for url in layouts:
            if self._begun[url].done():
                try:
                    links[url] = self._begun.pop(url).result()
                    self._verified.add(url)
                except WeightSyncError as error:
                    log.warning("%s", error)
            elif url in fresh:
                log.warning("%s: not connected after %g s; goes on trying", url, patience_s)
        return links

    def forget(self, url: str) -> None:
        """It is to hold something else: a link under way is of no use, and names are compared
        anew."""
        self._verified.discard(url)
        if (begun := self._begun.pop(url, None)) is not None:
            begun.add_done_callback(_abandon)

    def close(self) -> None:
        for url in list(self._begun):
            self.forget(url)

    def _connect(self, url: str, layout: Layout) -> ServerLink:
        spec = self._spec
        if url not in self._verified:
            misfit = proof.names_misfit(
                url, layout, tied=self._tied, timeout_s=spec.weights.timeout_s, key=spec.key
            )
            if misfit:
                raise FatalError(f"{url} does not hold the model of {spec.base}: {misfit}")
        link = ServerLink(
            url,
            backend=spec.backend,
            tensor_parallel=spec.tensor_parallel[url],
            address=spec.node_address,
            key=spec.key,
        )
        if spec.weights.via == "broadcast":
            link.connect(spec.weights.timeout_s)
        return link


def _abandon(begun: Future[ServerLink]) -> None:
    if begun.exception() is None:
        begun.result().abandon()
