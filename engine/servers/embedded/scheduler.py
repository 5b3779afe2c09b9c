"""Continuous batching for one model: who waits, who runs, and what a step does.

Nothing here blocks, and nothing here knows of HTTP. Requests join and
leave between decode steps. A prompt is prefilled once for all requests that share it, and its keys
and values are kept until the next weight update; so are image features.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from engine.give_back import GiveBack
from engine.servers.embedded.model import Module, Prefilled, TextModel, load_parameters
from engine.servers.embedded.request import Finish, Progress, Request
from engine.servers.embedded.rows import NewRow, Rows
from engine.servers.embedded.sampling import sample
from engine.servers.embedded.vision import ImageFeatures, encode

PauseMode = Literal["abort", "retract", "in_place"]
Decode = Callable[[Sequence[int]], str]

_PREFILL_TOKENS = 4096
"""Padded prompt tokens computed at once; bounds memory and the pause of running requests."""
_KEPT_PROMPT_TOKENS = 32_768
_KEPT_IMAGES = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of one server."""

    max_running_requests: int
    max_total_tokens: int
    context_length: int
    max_queued_requests: int


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    requests: int = 0
    aborted: int = 0
    retracted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    weight_updates: int = 0
    busy_s: float = 0.0
    prefills: int = 0
    """Prompts computed, those of requests that go on after an update included."""
    prefill_cpu_s: float = 0.0
    decode_steps: int = 0
    decode_cpu_s: float = 0.0
    """Of this thread, as the other `_cpu_s`: what a step costs, whoever else wants the core."""
    rows_squared: int = 0
    """Summed over decode steps; with `generated_tokens`, the sum of their rows, and
    `rows_cpu_s` enough for a straight line of a step's cost over its rows."""
    rows_cpu_s: float = 0.0


class Scheduler:
    """Requests and weights of one policy."""

    def __init__(
        self,
        module: Module,
        limits: Limits,
        *,
        version: str,
        eos_ids: Iterable[int],
        decode: Decode,
        seed: int,
    ) -> None:
        self.module = module
        self.limits = limits
        self.version = version
        self.counters = Counters()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.paused: PauseMode | None = None
        self.outbox: list[tuple[Callable[[Progress], None], Progress]] = []
        """Answers of this step: (deliver, progress), taken by the worker."""
        self._model = TextModel(module, limits.context_length)
        self._rows = Rows(self._model, limits.max_running_requests)
        self._decode = decode
        self._eos_ids = frozenset(eos_ids)
        self._is_eos = torch.zeros(self._model.vocab, dtype=torch.bool, device=self._model.device)
        self._is_eos[list(self._eos_ids)] = True
        self._generator = torch.Generator(self._model.device).manual_seed(seed)
        self._prompts: OrderedDict[tuple[Any, ...], Prefilled] = OrderedDict()
        self._kept_tokens = 0
        self._give_back = GiveBack()
        self._rows_sampled = 0
        """In the newest step."""
        self._images: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._on_idle: list[Callable[[], None]] = []
        self._holds = 0

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request behind those of its priority; it may join at the next step."""
        self.counters.requests += 1
        place = len(self.waiting)
        while place and self.waiting[place - 1].priority < request.priority:
            place -= 1
        self.waiting.insert(place, request)

    def abort(self, rid: str, *, everything: bool = False) -> None:
        """End the live request `rid` and all whose id begins so; ignore an id that is not live."""
        live = [*self.running, *self.waiting]
        if not everything and not any(request.rid == rid for request in live):
            return
        victims = {id(r) for r in live if everything or r.rid.startswith(rid)}
        for row in reversed(range(len(self.running))):
            if id(self.running[row]) in victims:
                self._finish_row(row, _aborted())
        for request in [r for r in self.waiting if id(r) in victims]:
            self.waiting.remove(request)
            self._finish(request, _aborted())
        self._report_idle()

    def drop(self, request: Request) -> None:
        """End one request whose client has gone."""
        if request in self.running:
            self._finish_row(self.running.index(request), _aborted())
        elif request in self.waiting:
            self.waiting.remove(request)
            self._finish(request, _aborted())
        self._report_idle()

    # -- control -------------------------------------------------------------------------------

    def pause(self, mode: PauseMode) -> None:
        """Stop stepping: end running requests, send them back to the queue, or freeze them."""
        self.paused = mode
        if mode == "abort":
            self.abort("", everything=True)
        elif mode == "retract":
            for row in range(len(self.running)):
                self._sync(row)
                self.running[row].retractions += 1
            self.counters.retracted += len(self.running)
            self.waiting.extendleft(reversed(self.running))
            self.running.clear()
            self._rows.clear()
        self._report_idle()

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = None

    def flush(self) -> bool:
        """Forget kept prompts and images; False where requests still use the cache."""
        self._forget()
        return not self.running

    def hold(self, on_idle: Callable[[], None]) -> None:
        """Let no request start until `release`; call back once none runs (or all are frozen)."""
        self._holds += 1
        self._on_idle.append(on_idle)
        self._report_idle()

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
        """Copy new weights in; returns names that the model lacks. Kept prompts are forgotten."""
        try:
            return load_parameters(self.module, tensors)
        finally:
            self._model.refresh()
            self._forget()
            self.counters.weight_updates += 1
            self._give_back()

    def set_version(self, version: str) -> None:
        """Tokens sampled from now on carry this version."""
        self.version = version
        for row, request in enumerate(self.running):
            self._sync(row)
            request.enter_version(version)

    @property
    def used_tokens(self) -> int:
        """Cache columns that running requests occupy or may come to occupy."""
        return sum(request.reserved for request in tuple(self.running))

    # -- stepping ------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True where `step` would do something."""
        return not self.paused and bool(self.running or (self.waiting and not self._holds))

    def step(self) -> None:
        """Admit what fits, sample one token for every running request, end those that are done."""
        if not self.has_work:
            return
        counters = self.counters
        began, cpu_began = time.perf_counter(), time.thread_time()
        joining = self._admit()
        groups = self._prefill(joining)
        prefilled = time.thread_time()
        counters.prefill_cpu_s += prefilled - cpu_began
        if self.running or groups:
            self._sample(groups)
            self._report_idle()
            self._count_step(time.thread_time() - prefilled)
        counters.busy_s += time.perf_counter() - began

    def _count_step(self, cpu_s: float) -> None:
        counters, rows = self.counters, self._rows_sampled
        counters.decode_steps += 1
        counters.decode_cpu_s += cpu_s
        counters.rows_squared += rows * rows
        counters.rows_cpu_s += rows * cpu_s

    def _sample(self, groups: list[tuple[Prefilled, list[Request]]]) -> None:
        rows = self._rows
        width = max((prefilled.keys.shape[-1] for prefilled, _ in groups), default=0)
        rows.make_room(width, sum(len(requests) for _, requests in groups))
        hidden = [rows.decode()] if rows.count else []
        if groups:
            hidden.append(rows.insert([(p, [_new_row(r) for r in rs]) for p, rs in groups]))
            for request in (request for _, requests in groups for request in requests):
                request.synced_clock = rows.clock
                request.enter_version(self.version)
                self.running.append(request)
        truncates = any(request.sampling.truncates for request in self.running)
        tokens, logprobs = sample(
            self._model.logits(torch.cat(hidden)),
            rows.temperature,
            rows.truncation() if truncates else None,
            self._generator,
        )
        at_limit = rows.append(tokens, logprobs)
        self._rows_sampled = rows.count
        self.counters.generated_tokens += rows.count
        done = (self._is_eos[tokens] | at_limit).nonzero().squeeze(1).tolist()
        if any(request.watched for request in self.running):
            done = sorted({*done, *(i for i, r in enumerate(self.running) if r.watched)})
        for row in reversed(done):  # from the end: a removed row is replaced by the last one
            self._look_at(row)

    def _look_at(self, row: int) -> None:
        """End a row if its newest token ends it; else report to a streaming client."""
        self._sync(row)
        request = self.running[row]
        finish = self._finish_reason(request)
        if finish is not None:
            self._finish_row(row, finish)
        elif request.stream and (
            # The first one too: what it says of the weights then holds for all that follow.
            len(request.tokens) == 1 or len(request.tokens) % request.sampling.stream_interval == 0
        ):
            self.outbox.append((request.deliver, request.progress(None, self.version)))

    def _finish_reason(self, request: Request) -> Finish | None:
        stops, newest = request.sampling, request.tokens[-1]
        if len(request.tokens) >= stops.max_new_tokens:
            return {"type": "length", "length": stops.max_new_tokens}
        if newest in stops.stop_token_ids or (newest in self._eos_ids and not stops.ignore_eos):
            return {"type": "stop", "matched": newest}
        if stops.stop_strings:
            longest = max(len(text.encode()) for text in stops.stop_strings)
            tail = self._decode(request.tokens[-longest - 8 :])
            for text in stops.stop_strings:
                if text in tail:
                    return {"type": "stop", "matched": text}
        return None

    # -- admission -----------------------------------------------------------------------------

    def _admit(self) -> list[Request]:
        """Take requests from the queue, in order, while rows, tokens and this step allow."""
        if self._holds or not self.waiting:
            return []
        taken: list[Request] = []
        reserved = sum(request.reserved for request in self.running)
        fresh: set[tuple[Any, ...]] = set()
        budget = _PREFILL_TOKENS
        while self.waiting and len(self.running) + len(taken) < self.limits.max_running_requests:
            request = self.waiting[0]
            occupied = bool(self.running or taken)
            if occupied and reserved + request.reserved > self.limits.max_total_tokens:
                break
            key = request.key
            if request.tokens or not (key in self._prompts or key in fresh):
                budget -= len(request.prompt.token_ids) + len(request.tokens)
                fresh.add(key)
            if budget < 0 and taken:
                break
            reserved += request.reserved
            taken.append(self.waiting.popleft())
        return taken

    def _prefill(self, joining: Sequence[Request]) -> list[tuple[Prefilled, list[Request]]]:
        """Groups of requests with the state of their common prompt, computed where not kept."""
        grouped: dict[tuple[Any, ...], list[Request]] = {}
        for request in joining:
            if request.logprob_start >= 0 and request.input_logprobs is None:
                self._score(request)
            if request.sampling.max_new_tokens == 0:
                self._finish(request, {"type": "length", "length": 0})
                continue
            key = (request.rid,) if request.tokens else request.key
            grouped.setdefault(key, []).append(request)
        found: dict[tuple[Any, ...], Prefilled] = {}
        for key, requests in grouped.items():
            kept = self._prompts.get(key)
            if kept is not None:
                self._prompts.move_to_end(key)
                found[key] = kept
            self._count_prompt(requests, cached=kept is not None)
        missing = sorted(
            ((key, requests[0]) for key, requests in grouped.items() if key not in found),
            key=lambda item: len(item[1].prompt.token_ids) + len(item[1].tokens),
        )
        self.counters.prefills += len(missing)
        for chunk in _chunks(missing):
            prompts = [request.to_prefill() for _, request in chunk]
            features = self._features([request for _, request in chunk])
            prefilled = self._model.prefill(prompts, features)
            for (key, request), state in zip(chunk, prefilled, strict=True):
                found[key] = state
                if not request.tokens:
                    self._keep(key, state)
        return [(found[key], requests) for key, requests in grouped.items()]

    def _count_prompt(self, requests: Sequence[Request], *, cached: bool) -> None:
        for i, request in enumerate(requests):
            size = len(request.prompt.token_ids)
            if not request.tokens:
                request.cached_tokens = size if cached or i else 0
                self.counters.prompt_tokens += size
                self.counters.cached_tokens += request.cached_tokens

    def _features(self, requests: Sequence[Request]) -> dict[str, ImageFeatures]:
        """Features of all images of the requests, computed where not kept."""
        wanted = {pixels.digest: pixels for request in requests for pixels in request.pixels}
        missing = [pixels for digest, pixels in wanted.items() if digest not in self._images]
        if missing:
            self._images.update(encode(self.module.model.visual, missing))
        found = {digest: self._images[digest] for digest in wanted}
        while len(self._images) > _KEPT_IMAGES:
            self._images.popitem(last=False)
        return found

    def _score(self, request: Request) -> None:
        """Log-probs (temperature 1) of the prompt's own tokens from `logprob_start` on."""
        (state,) = self._model.prefill(
            [request.prompt], self._features([request]), all_positions=True
        )
        first = min(request.logprob_start, len(request.prompt.token_ids) - 1)
        logprobs = torch.log_softmax(self._model.logits(state.hidden[first:-1]), dim=-1)
        ids = torch.tensor(request.prompt.token_ids[first + 1 :], device=logprobs.device)
        request.input_logprobs = (None, *logprobs.gather(1, ids[:, None]).squeeze(1).tolist())

    def _keep(self, key: tuple[Any, ...], state: Prefilled) -> None:
        """Remember a prompt; its tensors are copied, so that they hold no larger batch alive."""
        state = Prefilled(state.keys.clone(), state.values.clone(), state.hidden.clone())
        self._prompts[key] = state
        self._kept_tokens += state.keys.shape[-1]
        while self._kept_tokens > _KEPT_PROMPT_TOKENS:
            _, oldest = self._prompts.popitem(last=False)
            self._kept_tokens -= oldest.keys.shape[-1]

    def _forget(self) -> None:
        self._prompts.clear()
        self._images.clear()
        self._kept_tokens = 0

    # -- leaving -------------------------------------------------------------------------------

    def _sync(self, row: int) -> None:
        """Bring a running request's own lists up to date with the cache."""
        request, now = self.running[row], self._rows.clock
        if now > request.synced_clock:
            tokens, logprobs = self._rows.newest(row, now - request.synced_clock)
            request.tokens += tokens
            request.logprobs += logprobs
            request.synced_clock = now

    def _finish_row(self, row: int, finish: Finish) -> None:
        self._sync(row)
        request = self.running[row]
        self._rows.remove(row)
        last = self.running.pop()
        if last is not request:
            self.running[row] = last
        self._finish(request, finish)

    def _finish(self, request: Request, finish: Finish) -> None:
        self.counters.aborted += finish["type"] == "abort"
        self.outbox.append((request.deliver, request.progress(finish, self.version)))

    def _report_idle(self) -> None:
        if self._on_idle and (self.paused or not self.running):
            callbacks, self._on_idle = self._on_idle, []
            for callback in callbacks:
                callback()


def _aborted() -> Finish:
    return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}


def _new_row(request: Request) -> NewRow:
    sampling = request.sampling
    return NewRow(
        next_position=request.prompt.next_position + len(request.tokens),
        max_new_tokens=sampling.max_new_tokens - len(request.tokens),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
    )


def _chunks(
    ordered: Sequence[tuple[tuple[Any, ...], Request]],
) -> Iterable[Sequence[tuple[tuple[Any, ...], Request]]]:
    """Split prompts, shortest first, where padding would waste a fifth or the batch is full."""
    first = 0
    for i, (_, request) in enumerate(ordered):
        width = len(request.prompt.token_ids) + len(request.tokens)
        _, shortest = ordered[first]
        least = len(shortest.prompt.token_ids) + len(shortest.tokens)
        if i > first and (width > 1.25 * least + 4 or width * (i + 1 - first) > _PREFILL_TOKENS):
            yield ordered[first:i]
            first = i
    if first < len(ordered):
        yield ordered[first:]
