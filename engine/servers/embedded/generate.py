"""POST /generate: one question or many, answered at once or as a stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiohttp import web

from engine.servers.embedded.protocol import Ask, BadRequest, Question, answer, parse_generate
from engine.servers.embedded.request import Progress, Request
from engine.servers.embedded.served import ServedModel


class _Inbox:
    """The newest progress of one request; older ones that nobody took are superseded."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._newest: Progress | None = None

    def put(self, progress: Progress) -> None:
        self._newest = progress
        self._event.set()

    async def get(self) -> Progress:
        await self._event.wait()
        self._event.clear()
        assert self._newest is not None
        return self._newest


async def read_json(request: web.Request) -> Any:
    """The body as JSON; raises BadRequest."""
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


async def handle_generate(served: ServedModel, http: web.Request) -> web.StreamResponse:
    """Answer /generate. A client that disconnects aborts its requests."""
    ask = parse_generate(await read_json(http))
    waiting = len(served.live) - len(served.scheduler.running)
    if waiting + len(ask.questions) > served.limits.max_queued_requests:
        return web.json_response({"error": {"message": "The request queue is full."}}, status=503)
    inboxes = [_Inbox() for _ in ask.questions]
    requests = [
        await served.prepare(question, stream=ask.stream, deliver=inbox.put)
        for question, inbox in zip(ask.questions, inboxes, strict=True)
    ]
    if ask.stream:
        return await _stream(served, http, ask, requests, inboxes)
    submitted: list[Request] = []
    finished = False
    try:
        for request in requests:
            served.submit(request)
            submitted.append(request)
        results = [await inbox.get() for inbox in inboxes]
        finished = True
    finally:
        for request in submitted:
            served.forget(request, finished=finished)
    answers = [
        _answer(served, question, request, progress)
        for question, request, progress in zip(ask.questions, requests, results, strict=True)
    ]
    return web.json_response(answers if ask.is_list else answers[0])


async def _stream(
    served: ServedModel,
    http: web.Request,
    ask: Ask,
    requests: Sequence[Request],
    inboxes: Sequence[_Inbox],
) -> web.StreamResponse:
    """Cumulative chunks as server-sent events; in a batch each carries its index."""
    submitted: list[Request] = []
    finished = False
    try:
        for request in requests:
            served.submit(request)
            submitted.append(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        async for index, progress in _merged(inboxes):
            chunk = _answer(served, ask.questions[index], requests[index], progress)
            if ask.is_list:
                chunk["index"] = index
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        finished = True
        await response.write(b"data: [DONE]\n\n")
    finally:
        for request in submitted:
            served.forget(request, finished=finished)
    await response.write_eof()
    return response


async def _merged(inboxes: Sequence[_Inbox]) -> AsyncIterator[tuple[int, Progress]]:
    """(index, progress) of all inboxes as they come, until each has finished."""
    waits = {asyncio.ensure_future(inbox.get()): i for i, inbox in enumerate(inboxes)}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                index = waits.pop(future)
                progress = future.result()
                if progress.finish is None:
                    waits[asyncio.ensure_future(inboxes[index].get())] = index
                yield index, progress
    finally:
        for future in waits:
            future.cancel()


def _answer(
    served: ServedModel, question: Question, request: Request, progress: Progress
) -> dict[str, Any]:
    ids = request.prompt.token_ids
    image_id = served.layout.image_id
    return answer(
        question,
        progress,
        prompt_ids=ids,
        image_columns=ids.count(image_id) if request.prompt.images else 0,
        hidden_id=image_id,
        decode=served.decode,
        created_s=request.created_s,
    )
