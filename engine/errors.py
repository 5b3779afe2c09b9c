"""Every error that the engine raises on purpose.

Bad model output is a value (`engine.types.Invalid`), never an exception. Bad user input is a
`ConfigError`. A `GameDropped` is a *named* failure of one game: it ends that game as
`dropped[reason]`. Any other exception, anywhere, ends the run with that exception.
"""


class EngineError(Exception):
    """Root of the errors raised on purpose."""


class FatalError(EngineError):
    """No restart mends it: the run ends, and says why."""


class ConfigError(EngineError, ValueError):
    """Input of the user that cannot be used: says what, where, and how to mend it."""


class GameDropped(EngineError):
    """A named failure that ends one game: `reason` is enumerable (`deadline`, `retries`, ...)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class BrokenWeightsError(EngineError):
    """A policy's weights are NaN or infinite after a step, which is neither published nor saved."""


class WeightSyncError(EngineError):
    """A publication failed for one server; the message names the server and the stage."""


class CheckpointError(EngineError):
    """A checkpoint that cannot be read or written; the message names the file and the fix."""


class TransportError(EngineError):
    """The peer at the other end of a socket is gone or speaks another protocol."""
