"""The endpoints that change a server's state: pauses, aborts, and weight updates."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from engine.buckets import Intake, Memory, Received, checksums, dtype_name, receive_bucket
from engine.servers.embedded.model import adopt_parameters, load_parameters
from engine.servers.embedded.protocol import BadRequest
from engine.servers.embedded.served import ServedModel
from engine.weight_files import read_weights
from engine.weight_groups import join_group, leave_group

Answer = dict[str, Any]


class Refused(Exception):
    """Answered with 400 and {"success": false, "message": ...}."""


class Control:
    """Pauses and weight updates of one model. Lives on the event loop."""

    def __init__(self, served: ServedModel, timeout_s: float) -> None:
        self._served = served
        self._timeout_s = timeout_s
        self._groups: dict[str, dist.ProcessGroup] = {}
        self._intake = Intake()
        self._session_open = False
        self._holding = False
        self._updating = asyncio.Lock()
        # Receiving blocks, and must hold up neither the event loop nor other models' decoding; nor
        # must a learner that never joins its group hold up another's updates.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="weights")

    async def abort_request(self, body: Mapping[str, Any]) -> Answer:
        """End requests by id prefix, or all."""
        rid, everything = _text(body, "rid", ""), body.get("abort_all") is True
        if rid or everything:
            scheduler = self._served.scheduler
            self._run(lambda: scheduler.abort(rid, everything=everything))
        return {}

    async def pause_generation(self, body: Mapping[str, Any]) -> Answer:
        """Stop generating: `mode` says what becomes of running requests."""
        mode = body.get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise BadRequest(f"mode must be abort, retract or in_place, got {mode!r}")
        self._run(lambda: self._served.scheduler.pause(mode))
        return {"message": f"Generation paused ({mode}).", "status": "ok"}

    async def continue_generation(self, body: Mapping[str, Any]) -> Answer:
        """Undo a pause."""
        self._run(self._served.scheduler.resume)
        return {"message": "Generation continued.", "status": "ok"}

    async def flush_cache(self, body: Mapping[str, Any]) -> Answer:
        """Forget cached prompts; refused while requests use the cache."""
        if not self._run(self._served.scheduler.flush):
            raise Refused("Flush cache failed.")
        return {"success": True, "message": "Cache flushed."}

    async def init_weights_update_group(self, body: Mapping[str, Any]) -> Answer:
        """Join a trainer's process group; answers when all have joined."""
        name = _text(body, "group_name", "weight_update_group")
        if name in self._groups:
            raise Refused(f"process group {name!r} exists")
        address, port = _text(body, "master_address"), _whole(body, "master_port")
        rank, size = _whole(body, "rank_offset"), _whole(body, "world_size")
        backend = _text(body, "backend", "nccl")

        def join() -> dist.ProcessGroup:
            return join_group(address, port, rank, size, name, backend, self._timeout_s)

        self._groups[name] = await self._blocking(join)
        return _done("Succeeded to initialize custom process group.")

    async def destroy_weights_update_group(self, body: Mapping[str, Any]) -> Answer:
        """Leave a process group."""
        group = self._groups.pop(_text(body, "group_name", "weight_update_group"), None)
        if group is None:
            raise Refused("The group to be destroyed does not exist.")
        leave_group(group)
        return _done("Succeeded to destroy custom process group.")

    async def begin_weight_update(self, body: Mapping[str, Any]) -> Answer:
        """Open an update session.

        From its first update to its end no request starts, so that none meets half-new weights.
        """
        if self._session_open:
            raise Refused("A weight update session is already open.")
        self._session_open = True
        return _done("Weight update session opened.")

    async def end_weight_update(self, body: Mapping[str, Any]) -> Answer:
        """Close the update session."""
        if not self._session_open:
            raise Refused("No weight update session is open.")
        self._session_open = False
        if self._holding:
            self._holding = False
            self._run(self._take_up)
        return _done("Weight update session closed.")

    async def update_weights_from_distributed(self, body: Mapping[str, Any]) -> Answer:
        """Receive tensors by broadcast and load them.

        Not paused, it waits for running requests to end, while new ones wait for it.
        """
        if not self._session_open:
            raise Refused("No weight update session is open; call /begin_weight_update first.")
        name = _text(body, "group_name", "weight_update_group")
        group = self._groups.get(name)
        if group is None:
            raise Refused(f"process group {name!r} does not exist")
        load_format = body.get("load_format")
        if load_format not in (None, "flattened_bucket"):
            raise Refused(f"load_format {load_format!r} is not supported")
        names, dtypes, shapes = (body.get(key) or [] for key in ("names", "dtypes", "shapes"))
        if not all(isinstance(value, list) for value in (names, dtypes, shapes)):
            raise BadRequest("names, dtypes and shapes must be lists")
        flattened = load_format is not None
        module = self._served.scheduler.module

        def receive(memory: Memory) -> Received:
            return receive_bucket(
                group,
                names,
                dtypes,
                shapes,
                flattened=flattened,
                device=module.device,
                timeout_s=self._timeout_s,
                memory=memory,
            )

        def load(received: Received, *, may_adopt: bool) -> tuple[list[str], bool]:
            if may_adopt and flattened and adopt_parameters(module, received):
                return [], True
            with torch.inference_mode():
                return load_parameters(module, received), False

        async with self._updating:
            if body.get("abort_all_requests") is True:
                self._run(lambda: self._served.scheduler.abort("", everything=True))
            await self._hold()
        try:
            unknown = await self._blocking(lambda: self._intake.take(receive, load))
        except (ValueError, TypeError) as error:
            raise Refused(f"Failed to update parameter online: {error}") from error
        if not self._run(lambda: self._finish(body)):
            raise Refused("Weights are updated, but: Flush cache failed.")
        note = f" Skipped unknown names: {', '.join(unknown[:8])}." if unknown else ""
        return _done("Succeeded to update parameter online." + note)

    async def update_weights_from_disk(self, body: Mapping[str, Any]) -> Answer:
        """Load the safetensors of a folder; whatever is wrong with it, the old weights stay.

        Not paused, it waits for running requests to end, while new ones wait for it.
        """
        folder = Path(_text(body, "model_path"))
        scheduler = self._served.scheduler
        own = {name: tuple(t.shape) for name, t in scheduler.module.state_dict().items()}
        async with self._updating:
            if body.get("abort_all_requests") is True:
                self._run(lambda: scheduler.abort("", everything=True))
            try:
                tensors = await self._blocking(lambda: read_weights(folder, own))
            except (OSError, ValueError) as error:
                raise Refused(f"Failed to load {folder}: {error}") from error
            holds = not self._holding
            await self._hold()
            try:
                paused = len(scheduler.running) + len(scheduler.waiting) if scheduler.paused else 0
                unknown, flushed = self._run(lambda: self._apply(tensors, body))
            finally:
                if holds:
                    self._release()
        if not flushed:
            raise Refused("Weights are updated, but: Flush cache failed.")
        note = f" Skipped unknown names: {', '.join(unknown[:8])}." if unknown else ""
        message = "Succeeded to update model weights." + note
        return {**_done(message), "num_paused_requests": paused}

    def _apply(
        self, tensors: list[tuple[str, Tensor]], body: Mapping[str, Any]
    ) -> tuple[list[str], bool]:
        """Load tensors; unknown names, and whether a wanted flush succeeded. In one
        piece: no token may be sampled between new weights and their version."""
        unknown = self._served.scheduler.update_weights(tensors)
        return unknown, self._finish(body)

    def _finish(self, body: Mapping[str, Any]) -> bool:
        """Enter the version that came with an update; whether a wanted flush succeeded."""
        scheduler = self._served.scheduler
        if body.get("weight_version") is not None:
            scheduler.set_version(str(body["weight_version"]))
        return scheduler.flush() or body.get("flush_cache", True) is False

    def _take_up(self) -> None:
        """Generate again, with what the updates of a session have loaded."""
        self._served.scheduler.update_weights([])
        self._served.scheduler.release()

    async def update_weight_version(self, body: Mapping[str, Any]) -> Answer:
        """Rename the weights; by default all requests are aborted."""
        version = _text(body, "new_version")
        scheduler = self._served.scheduler
        if body.get("abort_all_requests", True):
            self._run(lambda: scheduler.abort("", everything=True))
        self._run(lambda: scheduler.set_version(version))
        return {**_done(f"Weight version updated to {version}"), "new_version": version}

    async def weights_checker(self, body: Mapping[str, Any]) -> Answer:
        """Checksums of all weights, by their Hugging Face names; beyond SGLang's answer also their
        shapes and dtypes."""
        if body.get("action") != "checksum":
            raise Refused(f"action {body.get('action')!r} is not supported; use 'checksum'")
        skip = set(body.get("skip_tensor_list") or [])
        module = self._served.scheduler.module
        sums = self._run(
            lambda: checksums((n, t) for n, t in module.state_dict().items() if n not in skip)
        )
        held = {name: tensor for name, tensor in module.state_dict().items() if name in sums}
        rank = {
            "rank": 0,
            "checksums": sums,
            "shapes": {name: list(tensor.shape) for name, tensor in held.items()},
            "dtypes": {name: dtype_name(tensor.dtype) for name, tensor in held.items()},
        }
        return {**_done(""), "ranks": [rank]}

    def _run(self, action: Callable[[], Any]) -> Any:
        """Do something between two steps."""
        return self._served.loop.run(action)

    async def _blocking(self, action: Callable[[], Any]) -> Any:
        """Run on the weights thread; torch's errors become refusals."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, action)
        except RuntimeError as error:
            raise Refused(str(error).splitlines()[0]) from error

    async def _hold(self) -> None:
        """Let no request start, and wait until none runs (or all are frozen)."""
        if self._holding:
            return
        self._holding = True
        idle = asyncio.Event()
        self._run(lambda: self._served.scheduler.hold(idle.set))
        try:
            await idle.wait()
        except asyncio.CancelledError:  # who asked has gone
            self._release()
            raise

    def _release(self) -> None:
        self._holding = False
        self._run(self._served.scheduler.release)


def _done(message: str) -> Answer:
    return {"success": True, "message": message}


def _text(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return value


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{name} must be an integer")
    return value
