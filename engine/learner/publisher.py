"""Where the weights of a group's policies go: servers, publications, and their proof.

Rank 0 only; the ranks share the sending (`sender.py`). A server that is late, restarted, moved or
failed is filled as soon as it answers, with the weights that are already published and under their
own version. Before a server is filled for the first time its names, shapes and dtypes are compared
with ours. Every publication is followed by a *probe* (log-probs of fixed tokens after a picture,
ours against the server's), the first and every n-th also by a comparison of checksums, where the
server has some that can be compared (`proof.py`): weights that either shows to be wrong are never
routed to.

With `weights.overlap` all that is published is a copy: making it is a collective, in its place
among the other commands; all that follows is done by one thread while training goes on. No two
collectives of the learners ever interleave, and a server's group is used by that thread alone. It
is rank 0 that sends a copy, to all servers.
"""

import contextlib
import hashlib
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch

from engine.errors import FatalError, WeightSyncError
from engine.learner import proof
from engine.learner.group import LearnerGroup
from engine.learner.published import ATTEMPTS, Current, Pinned, Published
from engine.learner.sender import share_out
from engine.server_calls import call_server
from engine.transport import Message
from engine.weight_files import Spec, write_folder
from engine.weights import ServerResult

log = logging.getLogger(__name__)

HOLD_S = 2.0
"""How long a server that is given up may take to say that it is paused."""


class Publisher:
    """The servers of a group's policies, seen from rank 0."""

    def __init__(self, group: LearnerGroup, tell: Callable[[Message], None]) -> None:
        self._group = group
        self._spec = group.spec
        self._tell_engine = tell
        """Sends a message to the engine; by the thread of the trainers only."""
        self._outbox: SimpleQueue[Message] = SimpleQueue()
        self._thread = ThreadPoolExecutor(1, "publish") if group.spec.weights.overlap else None
        self._jobs: dict[str, Future[None]] = {}
        """The last publication of each name, and the last look after the servers (``)."""
        self.states: dict[str, Published] = {}
        """By policy, and by follower."""
        self.servers = {name: list(urls) for name, urls in group.spec.servers.items()}
        """URLs by policy, and by follower; they may move."""
        self.busy_s = 0.0
        self._versions = proof.Versions(group.spec.key)

    def begin(self, versions: Mapping[str, int]) -> None:
        """The weights as they are now have these versions; servers get them as they turn up.

        Followers too: a pin is in no checkpoint. A resumed run pins what it restored, under a new
        version, and so renews a follower once more than a run that was not interrupted.
        """
        self.forget_folders()  # of a life before this one: its servers are gone
        kind = Current if self._thread is None else Pinned
        for policy in self._spec.policies:
            self.states[policy] = Published(int(versions[policy]), kind(self._group, policy))
        for name, follower in self._spec.followers.items():
            self.states[name] = Published(int(versions[name]), Pinned(self._group, follower.policy))
        if self._spec.weights.pause == "in_place":
            text = (
                "weights.pause is in_place: requests in flight go on with keys and values of the "
                "old weights, so that no single model gives the log-probs of what they sample"
            )
            self._tell_engine({"kind": "event", "text": text, "level": "warning"})

    def assign(self, name: str, url: str) -> None:
        """From now on the server serves this policy or follower: all that another had with it ends,
        and like a late one it is filled with everything at the next look."""
        self._run(f"move {url}", lambda: self._move(url, name))

    def release(self, name: str, url: str) -> None:
        """From now on the server is none of this policy's or follower's; says `released` when
        nothing of it is on its way to the server any more."""

        def let_go() -> None:
            if self._has(name, url):
                self._move(url, None)
            self._tell({"kind": "released", "policy": name, "url": url})

        self._run(f"move {url}", let_go)
        self.report()

    def _has(self, name: str, url: str) -> bool:
        return url in self.servers[name]

    def _move(self, url: str, target: str | None) -> None:
        for name, urls in self.servers.items():
            if url in urls:
                urls.remove(url)
            state = self.states[name]
            state.linked.discard(url)
            state.unproven.pop(url, None)
            rank = state.senders.pop(url, 0)
            if rank == 0:
                self._group.sender.leave(url)
            else:
                self._group.run({"kind": "leave", "url": url})
        if target is not None:
            self.servers[target].append(url)

    def publish_step(self, name: str, version: int) -> None:
        """A step was made: send its weights to the servers of the policy, or of a follower that
        it renews, as far as they are linked."""
        state = self.states[name]
        for job in (self._jobs.get(name), self._jobs.get("")):
            if job is not None:
                job.result()  # it reads the copy that is about to be overwritten
        state.weights.renew()
        state.version = version

        def send() -> None:  # to who is linked by then: a move may have its turn before
            linked = [url for url in self.servers[name] if url in state.linked]
            self._publish(name, linked, is_late=False)

        self._run(name, send)
        self.report()

    def look_after_servers(self) -> bool:
        """Fill late and restarted servers; tell the engine which serve our weights. False: not
        now, the sending thread is busy."""
        if is_free := all(job.done() for job in self._jobs.values()):
            self._run("", self._look_after_servers)
        self.report()
        return is_free

    def report(self) -> None:
        """Tell the engine what the sending thread has to say. Raises what went wrong in it."""
        for job in self._jobs.values():
            if job.done():
                job.result()
        while not self._outbox.empty():
            self._tell_engine(self._outbox.get())

    def _run(self, name: str, job: Callable[[], None]) -> None:
        """Now, or by the sending thread where there is one."""
        if self._thread is None:
            job()
        else:
            self._jobs[name] = self._thread.submit(job)

    def _tell(self, message: Message) -> None:
        self._outbox.put(message)

    def _look_after_servers(self) -> None:
        versions = self._versions.ask([url for urls in self.servers.values() for url in urls])
        late: dict[str, list[str]] = {}
        for name, state in self.states.items():
            serving = []
            for url in self.servers[name]:
                if versions[url] == str(state.version) and url in state.linked:
                    serving.append(url)
                elif versions[url] is not None:
                    if versions[url] != str(state.version):  # it began anew
                        state.unproven.pop(url, None)
                    if not state.is_hopeless(url):
                        late.setdefault(name, []).append(url)
            if serving:
                self._tell(
                    {
                        "kind": "serving",
                        "policy": name,
                        "version": state.version,
                        "servers": serving,
                    }
                )
        self._fill(late)

    def _fill(self, late: Mapping[str, list[str]]) -> None:
        """Connect servers that hold no version of what they are to serve, and send it to them."""
        policies: dict[str, str] = {}
        senders: dict[str, int] = {}
        for name, urls in late.items():
            state = self.states[name]
            has_shares = state.weights.has_shares and self._spec.weights.via == "broadcast"
            addresses = self._group.addresses
            shares = share_out(urls, state.senders, addresses if has_shares else addresses[:1])
            state.senders.update(shares)
            for url in urls:
                policies[url], senders[url] = state.weights.policy, state.senders[url]
                if url in state.linked:
                    state.linked.discard(url)
                    # It may be back before anybody else has missed it.
                    self._tell({"kind": "lost", "policy": name, "url": url})
        made = set(self._connect(policies, senders))
        for name, urls in late.items():
            if joined := [url for url in urls if url in made]:
                self.states[name].linked.update(joined)
                self._publish(name, joined, is_late=True)

    def _connect(self, policies: Mapping[str, str], senders: Mapping[str, int]) -> list[str]:
        """Of these servers ({url: policy whose weights it is to hold}), those that take part."""
        if not any(senders.values()):  # nobody waits for a command, where a thread of its own sends
            layouts = {url: self._group.layouts[policy] for url, policy in policies.items()}
            return self._group.sender.connect(layouts)
        command = {"kind": "connect", "servers": dict(policies), "senders": dict(senders)}
        joined: list[str] = self._group.run(command)
        return joined

    def close(self) -> None:
        """Let the last publication end; leave the servers."""
        for job in self._jobs.values():
            job.result()
        self.report()
        self._versions.close()
        self._group.sender.close()

    @property
    def _folder(self) -> Path:
        return folder_of(self._spec.bad_batches.parent, self._spec.weights.folder)

    def forget_folders(self) -> None:
        """A tmpfs is memory, which nobody else would free."""
        if self._spec.weights.via == "disk":
            for name in self.servers:
                shutil.rmtree(self._folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # of another group's policies, too
                self._folder.rmdir()

    def _publish(self, name: str, urls: Sequence[str], *, is_late: bool) -> None:
        """Send the weights of a policy or follower to these servers, which are linked; `is_late`:
        who hold no version of them yet."""
        state, cfg = self.states[name], self._spec.weights
        started, cpu_began = time.monotonic(), time.process_time()
        if cfg.via == "broadcast":
            senders = {url: state.senders[url] for url in urls}
            results = state.weights.send(senders, state.version, changed_only=not is_late)
        else:
            results = self._write(name, urls)
        state.sent_bytes = max((result.sent_bytes for result in results.values()), default=0)
        failed = {url: result.error for url, result in results.items() if not result.ok}
        unproven = self._probe(state, [url for url in urls if url not in failed])
        # A server's first weights too, and those after it was found to hold others.
        if is_late or (cfg.checksum_every and state.count % cfg.checksum_every == 0):
            proven = [url for url in urls if url not in failed and url not in unproven]
            unproven |= self._compare(state, proven)
        failed |= {url: str(error) for url, error in unproven.items()}
        self._note_unproven(name, unproven, [url for url in urls if url not in failed])
        state.count += 1
        state.seconds = time.monotonic() - started
        state.cpu_s = time.process_time() - cpu_began
        if self._thread is None:
            self.busy_s += state.seconds  # the trainers waited for it
        for url, error in failed.items():
            log.warning("publication of %s v%d: %s", name, state.version, error)
            state.linked.discard(url)
            # Those that failed before are still paused, where publications pause.
            if url in unproven and cfg.pause != "drain":
                _hold(url, self._spec.key)
        self._tell(
            {
                "kind": "published",
                "policy": name,
                "version": state.version,
                "step": state.weights.step,
                "servers": [url for url in urls if url not in failed],
                "failed": failed,
                "seconds": state.seconds,
            }
        )

    def _note_unproven(
        self, name: str, errors: Mapping[str, str | WeightSyncError], proven: Sequence[str]
    ) -> None:
        """Count the servers that hold something else than they were sent; those that could not be
        asked are none. Raises FatalError where none ever holds it."""
        state = self.states[name]
        for url in proven:
            state.unproven.pop(url, None)
        for url, error in errors.items():
            if isinstance(error, WeightSyncError):
                continue
            at, times = state.unproven.get(url, (state.version, 0))
            state.unproven[url] = (state.version, times + 1 if at == state.version else 1)
            if state.is_hopeless(url):
                text = f"{name}: {url} gets no weights any more before the next version: {error}"
                self._tell({"kind": "event", "text": text, "level": "warning"})
        urls = self.servers[name]
        if errors and urls and all(state.is_hopeless(url) for url in urls):
            raise FatalError(
                f"{name}: after {ATTEMPTS} attempts none of its servers holds what it was sent: "
                f"{'; '.join(f'{url}: {error}' for url, error in errors.items())}"
            )

    def _write(self, name: str, urls: Sequence[str]) -> dict[str, ServerResult]:
        """By way of a folder, which is written once for a version. Where the disk does not take
        it, no server has been touched, and all are late."""
        state = self.states[name]
        parent = self._folder / name
        folder = parent / f"v{state.version}"
        try:
            if urls and not folder.exists():
                specs = {
                    key: Spec(getattr(torch, sent.dtype), sent.shape)
                    for key, sent in state.weights.layout.items()
                }
                tensors = state.weights.tensors()
                try:
                    folder = write_folder(parent, state.version, self._spec.base, specs, tensors)
                finally:
                    # The other ranks gather all of them, whatever becomes of them here.
                    deque(tensors, maxlen=0)
        except OSError as error:
            text = f"{folder}: {error}"
            return {url: ServerResult(False, text) for url in urls}
        return self._group.sender.send_folder(folder, urls, state.version)

    def _probe(self, state: Published, urls: list[str]) -> dict[str, str | WeightSyncError]:
        """{url: what differs} of the servers that give the probe's tokens other log-probs than we
        do, or which could not be asked."""
        cfg = self._spec.weights
        state.probe_gap = 0.0
        if not urls:
            return {}
        errors: dict[str, str | WeightSyncError] = {}
        trainer = self._group.trainers[state.weights.policy]
        tolerance = cfg.probe_tolerance or proof.TOLERANCES[trainer.published_dtype]
        gaps = proof.probe_gaps(
            urls,
            trainer.probe,
            state.weights.scores(),
            timeout_s=cfg.timeout_s,
            key=self._spec.key,
        )
        for url, gap in gaps.items():
            if isinstance(gap, WeightSyncError):
                errors[url] = gap
                continue
            state.probe_gap = max(state.probe_gap, gap)
            if not gap <= tolerance:
                errors[url] = (
                    f"the probe's log-probs differ by {gap:.3g} nats "
                    f"(weights.probe_tolerance is {tolerance})"
                )
        return errors

    def _compare(self, state: Published, urls: list[str]) -> dict[str, str | WeightSyncError]:
        """{url: what differs} of the servers whose weights are not ours, bit for bit, or which
        could not be asked."""
        spec = self._spec
        return proof.checksum_errors(
            [url for url in urls if spec.tensor_parallel[url] == 1],  # else a GPU has but a part
            state.weights.tensors,
            on_gpu=spec.device == "cuda",
            timeout_s=spec.weights.timeout_s,
            key=spec.key,
        )


def folder_of(run: Path, folder: Path | None) -> Path:
    """Where `via: disk` writes for the run in this folder: nobody else's weights may lie under its
    versions, nor those of a run that has the same name elsewhere."""
    place = run.resolve()
    if folder is None:
        return place / "published"
    return folder.resolve() / f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _hold(url: str, key: str | None) -> None:
    """Pause a server whose weights are not to be used, if it still hears: a router before it would
    go on sending requests."""
    with contextlib.suppress(WeightSyncError):
        call_server(url, "/pause_generation", {"mode": "retract"}, timeout_s=HOLD_S, key=key)
