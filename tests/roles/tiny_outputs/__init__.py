"""What the tiny base really said: `replies.jsonl`, made by `collect.py`."""

import json
from pathlib import Path

REPLIES = Path(__file__).parent / "replies.jsonl"


def replies() -> list[tuple[str, str]]:
    """(role, text) of every reply."""
    rows = (json.loads(line) for line in REPLIES.read_text().splitlines())
    return [(row["role"], row["text"]) for row in rows]
