"""A process that takes weights as a server does, and does nothing else.

    python -m launch.benches.weight_receiver PORT

It answers the calls of a publication (`engine.weights`) and takes what it receives for its own, as
an embedded server does for its model. `/raw` joins one plain broadcast of so many bytes.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.buckets import Intake, Memory, Received, receive_bucket
from engine.weight_groups import broadcast, join_group, leave_group

TIMEOUT_S = 120.0


class Receiver:
    """The weights received, and the group that brings them."""

    def __init__(self) -> None:
        self._groups: dict[str, dist.ProcessGroup] = {}
        self._weights: dict[str, Tensor] = {}
        self._intake = Intake()
        self._raw = torch.empty(0, dtype=torch.uint8)

    def handle(self, path: str, body: dict[str, Any]) -> None:
        """One call; those that only matter to a model that generates do nothing."""
        name = body.get("group_name", "")
        if path == "/init_weights_update_group":
            self._groups[name] = join_group(
                body["master_address"], body["master_port"], 1, 2, name, "gloo", TIMEOUT_S
            )
        elif path == "/destroy_weights_update_group":
            leave_group(self._groups.pop(name))
        elif path == "/update_weights_from_distributed":
            self._update(self._groups[name], body)
        elif path == "/raw":
            if self._raw.numel() != body["bytes"]:
                self._raw = torch.zeros(body["bytes"], dtype=torch.uint8)
            broadcast(self._groups[name], self._raw, TIMEOUT_S).wait()

    def _update(self, group: dist.ProcessGroup, body: dict[str, Any]) -> None:
        def receive(memory: Memory) -> Received:
            return receive_bucket(
                group,
                body["names"],
                body["dtypes"],
                body["shapes"],
                flattened=True,
                device="cpu",
                timeout_s=TIMEOUT_S,
                memory=memory,
            )

        self._intake.take(receive, self._load)

    def _load(self, received: Received, *, may_adopt: bool) -> tuple[list[str], bool]:
        if may_adopt:
            self._weights |= dict(received)
        else:
            for name, tensor in received:
                self._weights[name].copy_(tensor)
        return [], may_adopt


def main() -> None:
    receiver = Receiver()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.handle(self.path, body)
            answer = b'{"success": true, "message": ""}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Says nothing: it would be a line for every bucket."""

    torch.set_num_threads(1)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint).serve_forever()


if __name__ == "__main__":
    main()
