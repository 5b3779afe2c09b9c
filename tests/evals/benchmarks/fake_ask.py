"""A judge that replies what it was told to, in order, and keeps what it was asked."""

from collections.abc import Sequence
from typing import Any


class FakeAsk:
    def __init__(self, replies: Sequence[str]) -> None:
        self._replies = list(replies)
        self.prompts: list[str] = []
        self.settings: list[dict[str, Any]] = []

    async def __call__(self, prompt: str, **settings: Any) -> str:
        self.prompts.append(prompt)
        self.settings.append(settings)
        return self._replies.pop(0)

    @property
    def left(self) -> int:
        return len(self._replies)
