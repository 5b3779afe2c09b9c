"""What a hostile answer can do to the process that compares it, as functions for the grader.

They load no library, so that a worker starts in a tenth of a second.
"""

import os
import select
import socket
import sys

UNWRITTEN = "/tmp/never-written"


def form(answer: str) -> str:
    """The answer in upper case, but one that ends in a known word does as it says."""
    match answer.rpartition(" ")[2]:
        case "spin":
            sum(iter(int, 1))  # an endless loop in C: no signal handler of Python's runs
        case "idle":
            select.select([], [], [])  # for ever, as on a machine that stands still
        case "hog":
            return "x" * (1 << 34)
        case "gradual":
            hoard: list[bytes] = []
            while True:
                hoard.append(bytes(1 << 20))
        case "crash":
            os.abort()
        case "raise":
            raise ValueError(answer)
        case "recurse":
            return form(answer)
        case "long":
            return "x" * 60_000
        case "huge":
            return "x" * 600_000
        case "nonsense":
            return {"not": "a string"}  # type: ignore[return-value]
        case "print":
            print("x" * 1000, flush=True)
            sys.stderr.write("x" * 1000)
            os.write(1, b"x" * 1000)
        case "pid":
            return str(os.getpid())
        case "environment":
            return ",".join(sorted(os.environ))
        case "file":
            with open(UNWRITTEN, "w") as file:
                file.write("x")
        case "passwd":
            open("/etc/passwd").close()
        case "connect":  # its first word is the port
            socket.create_connection(("127.0.0.1", int(answer.split()[0]))).close()
        case "exec":
            os.execv("/bin/sh", ["sh", "-c", "exit 0"])
        case "fork":
            if os.fork() == 0:
                os._exit(0)
        case "late":
            import colorsys

            return str(colorsys.rgb_to_hsv(0, 0, 1)[2])
    return answer.upper()


def verdict(given: str, truth: str) -> bool:
    form(given)
    return given.startswith(truth)
