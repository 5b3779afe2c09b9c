"""Calls to a rollout server, as a learner makes them: synchronous, each with a time-out.

A request can be sent now and its answer be read later: an update is announced, then broadcast,
and only then answered.
"""

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from engine.errors import WeightSyncError
from engine.polling import is_readable
from engine.probe import Probe


class Call:
    """One POST of JSON that is under way. Raises WeightSyncError, which names server and path."""

    def __init__(
        self, url: str, path: str, body: Mapping[str, Any], *, timeout_s: float, key: str | None
    ) -> None:
        self._name = f"{url}{path}"
        self._connection = _connection(url, timeout_s)
        headers = {"Content-Type": "application/json", **_authorization(key)}
        try:
            self._connection.request("POST", path, json.dumps(body), headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise WeightSyncError(f"{self._name}: {type(error).__name__}: {error}") from error

    def is_answered(self, wait_s: float) -> bool:
        """Has the server begun to answer, or closed the connection? Waits so long for it."""
        return is_readable(self._connection.sock, wait_s)

    def answer(self) -> Any:
        """The JSON of a 200 answer; anything else, also `success: false`, is an error."""
        try:
            response = self._connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise WeightSyncError(f"{self._name}: {type(error).__name__}: {error}") from error
        finally:
            self._connection.close()
        if response.status != 200:
            raise WeightSyncError(f"{self._name}: {response.status} {text[:500]}")
        try:
            answer = json.loads(text) if text else {}
        except ValueError as error:
            raise WeightSyncError(
                f"{self._name}: the answer is not JSON: {text[:200]!r}"
            ) from error
        if isinstance(answer, Mapping) and answer.get("success") is False:
            raise WeightSyncError(f"{self._name}: {answer.get('message')}")
        return answer


def call_server(
    url: str, path: str, body: Mapping[str, Any], *, timeout_s: float, key: str | None = None
) -> Any:
    """POST JSON and return the JSON of a 200 answer; raises WeightSyncError for anything else."""
    return Call(url, path, body, timeout_s=timeout_s, key=key).answer()


def probe_logprobs(
    url: str, probe: Probe, *, timeout_s: float, key: str | None = None
) -> list[float]:
    """Log-probs (temperature 1, nats) that a server gives to the tokens of a probe. Raises
    WeightSyncError."""
    body = {
        "input_ids": [*probe.prompt_ids, *probe.token_ids],
        "image_data": [base64.b64encode(png).decode() for png in probe.images],
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    answer = call_server(url, "/generate", body, timeout_s=timeout_s, key=key)
    items = answer["meta_info"]["input_token_logprobs"]  # of the prompt too, its pictures expanded
    return [item[0] for item in items[-len(probe.token_ids) :]]


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor of a server, by the server's own name."""

    checksum: str
    dtype: str = ""
    """"float32", ...; empty where the server does not say (SGLang)."""
    shape: tuple[int, ...] | None = None


def held_weights(url: str, *, timeout_s: float, key: str | None = None) -> dict[str, Held]:
    """The weights that a server holds, by its own names. Raises WeightSyncError."""
    answer = call_server(
        url, "/weights_checker", {"action": "checksum"}, timeout_s=timeout_s, key=key
    )
    found = {}
    for rank in answer["ranks"]:
        shapes, dtypes = rank.get("shapes", {}), rank.get("dtypes", {})
        for name, checksum in rank["checksums"].items():
            shape = tuple(shapes[name]) if name in shapes else None
            found[name] = Held(checksum, dtypes.get(name, ""), shape)
    return found


def server_checksums(url: str, *, timeout_s: float, key: str | None = None) -> dict[str, str]:
    """{name: checksum} of the weights that a server holds (its own names)."""
    held = held_weights(url, timeout_s=timeout_s, key=key)
    return {name: tensor.checksum for name, tensor in held.items()}


def served_version(url: str, *, timeout_s: float = 5.0, key: str | None = None) -> str | None:
    """The weight version that a server reports; None where it does not answer (yet)."""
    connection = _connection(url, timeout_s)
    try:
        connection.request("GET", "/model_info", headers=_authorization(key))
        response = connection.getresponse()
        body = response.read()
        return str(json.loads(body)["weight_version"]) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


def _authorization(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
