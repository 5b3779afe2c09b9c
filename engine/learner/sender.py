"""How one rank sends weights: its links to servers, and its share of a publication.

Every server has one sender, a rank of the group that trains what it serves, if there is one on its
own node. All ranks gather every tensor anyway (`PolicyTrainer.named_weights`), so that a group of
many ranks fills as many servers at a time, each over its own link to the network.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from engine.buckets import Memory, NamedTensors
from engine.learner.connections import Connections, Layout
from engine.learner.spec import LearnerSpec
from engine.server_link import ServerLink
from engine.weights import Progress, ServerResult, publish, publish_folder


class Sender:
    """The servers that this rank sends to. Used by one thread at a time."""

    def __init__(self, spec: LearnerSpec) -> None:
        self._cfg = spec.weights
        self._connections = Connections(spec)
        self._links: dict[str, ServerLink] = {}
        # On a GPU torch keeps it, for the next step's backward pass too.
        self._memory = (Memory(), Memory()) if spec.device == "cpu" else None

    def connect(self, layouts: Mapping[str, Layout]) -> list[str]:
        """Make new links to these servers ({url: what it is to hold}): URLs of those that have
        taken part; who is late is found by a later call (`Connections.make`).

        Raises FatalError where a server does not hold the weights that we have.
        """
        for url in layouts:
            self.abandon(url)
        made = self._connections.make(layouts, self._cfg.stall_s)
        self._links.update(made)
        return list(made)

    def send(
        self,
        tensors: NamedTensors,
        urls: Sequence[str],
        version: int,
        progress: Progress | None = None,
    ) -> dict[str, ServerResult]:
        """By broadcast; takes all tensors, also where there is nobody to send them to. The link of
        a server that fails is abandoned. `progress`: where other ranks send at the same time."""
        if not urls:
            deque(tensors, maxlen=0)  # the other ranks gather them with us
            return {}
        report = publish(
            tensors,
            [self._links[url] for url in urls],
            version=version,
            bucket_bytes=int(self._cfg.bucket_mb * 2**20),
            pause_mode=self._pause_mode,
            timeout_s=self._cfg.timeout_s,
            stall_s=self._cfg.stall_s,
            memory=self._memory,
            progress=progress,
        )
        return self._without_failed(report.servers)

    def send_folder(
        self, folder: Path, urls: Sequence[str], version: int
    ) -> dict[str, ServerResult]:
        """By way of a folder that the servers read; as `send`."""
        report = publish_folder(
            folder,
            [self._links[url] for url in urls],
            version=version,
            pause_mode=self._pause_mode,
            timeout_s=self._cfg.timeout_s,
            stall_s=self._cfg.stall_s,
        )
        return self._without_failed(report.servers)

    def abandon(self, url: str) -> None:
        """It has failed, or holds something else: its link is of no use."""
        if (link := self._links.pop(url, None)) is not None:
            link.abandon()

    def leave(self, url: str) -> None:
        """It is to serve somebody else: tell it so, and forget it."""
        self._connections.forget(url)
        if (link := self._links.pop(url, None)) is not None:
            link.close()

    def close(self) -> None:
        """Leave all servers."""
        self._connections.close()
        for url in list(self._links):
            self.leave(url)

    @property
    def _pause_mode(self) -> str | None:
        return None if self._cfg.pause == "drain" else self._cfg.pause

    def _without_failed(self, results: Mapping[str, ServerResult]) -> dict[str, ServerResult]:
        for url, result in results.items():
            if not result.ok:
                self.abandon(url)
        return dict(results)


def share_out(
    urls: Iterable[str], senders: Mapping[str, int], addresses: Sequence[str]
) -> dict[str, int]:
    """{url: rank that sends to it}: who has a sender keeps it; to the others the rank with the
    fewest servers sends, of those on the server's node where there are any.

    Args:
        senders: so far, of all servers of the same weights.
        addresses: of each rank's node.
    """
    shares = dict(senders)
    for url in urls:
        if url not in shares:
            host = urlsplit(url).hostname
            near = [rank for rank, address in enumerate(addresses) if address == host]
            count = Counter(shares.values())
            shares[url] = min(near or range(len(addresses)), key=count.__getitem__)
    return {url: shares[url] for url in urls}
