"""What the pool, its template and the workers say to each other: frames with their lengths in
front, over a socket each. Nothing is unpickled, and a worker's frames are untrusted."""

import json
import struct
from dataclasses import asdict, dataclass

COMMAND = struct.Struct("!cI")
"""To the template: FORK, 0 (and one descriptor) | KILL, process id | ASK, process id."""
FORK, KILL, ASK = b"F", b"K", b"A"
ENDED = struct.Struct("!Ii")
"""From the template to ASK: process id, and exit status or minus the signal that ended it."""
READY = b"ready"
"""From the template, once it is warm; anything else is what went wrong."""
HELLO = struct.Struct("!I60s")
"""From a worker, first: its process id, and what it gave up."""
REQUEST = struct.Struct("!cI")
"""To a worker: PNG or RGB, bytes of the SVG source that follows."""
PNG, RGB = b"P", b"R"
REPLY = struct.Struct("!c?HHIIHI")
"""From a worker: PNG, RGB or INVALID; whether it ends now; width; height; microseconds of
processor time; peak KiB of memory; bytes of the note and of the payload that follow. The note names
characters drawn as boxes, or is a reason and a detail."""
INVALID = b"I"
NOTE_BYTES = 400


@dataclass(frozen=True, slots=True)
class Settings:
    """What a template is told about the pool it works for."""

    backend: str
    side: int
    grid: int
    fit: str
    cpu_s: float
    memory_mb: int
    is_audited: bool = False
    """Attempts at files, network or processes then end a worker, instead of being refused."""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> "Settings":
        return cls(**json.loads(text))
