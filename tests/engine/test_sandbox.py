"""The sandbox and the limits, on this machine's kernel, each attempt in a process of its own; and
the filter's program, for both machines, read by an interpreter that is not the kernel's."""

import errno
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from engine import limits, sandbox
from engine.sandbox import ALLOW, ERRNO, KILL, Sandbox
from tests.engine import attempts
from tests.processor_time import first_below

WAIT_S = 60
ROOT = Path(__file__).resolve().parents[2]
EPERM, ENOSYS = ERRNO + errno.EPERM, ERRNO + errno.ENOSYS
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
O_TMPFILE_ALONE = 0o20000000
MODES = ("free", "shut", "open", "shut audit", "open audit")
FILTERS = [
    (machine, reading, audit)
    for machine in sandbox.MACHINES
    for reading in (False, True)
    for audit in (False, True)
]


def in_child(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code; its standard output is a pipe, since files can't grow in there."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )


@cache
def level() -> Sandbox:
    """What this kernel has."""
    if sys.platform != "linux":
        return Sandbox(False, 0)
    done = in_child("from engine import sandbox; s = sandbox.enter(); print(s.seccomp, s.landlock)")
    seccomp, landlock = done.stdout.split()
    return Sandbox(seccomp == "True", int(landlock))


needs_seccomp = pytest.mark.skipif(not level().seccomp, reason="no seccomp here")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="no such limits elsewhere")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """{attempt: outcome} of a mode."""

    @cache
    def of(mode: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("attempts")
        for name in ("open/folder_there", "closed"):
            (folder / name).mkdir(parents=True)
        for name in ("inside.txt", "unlink_me", "rename_me", "truncate_me"):
            (folder / "open" / name).write_text("inside")
        (folder / "open/module_there.py").write_text("VALUE = 7\n")
        (folder / "open/way_out").symlink_to("../closed")
        (folder / "closed/outside.txt").write_text("outside")
        before = contents(folder)
        done = subprocess.run(
            [sys.executable, "-m", attempts.__name__, str(folder), mode],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stderr
        assert (contents(folder) == before) == (mode != "free")
        return json.loads(done.stdout)

    return of


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in files}


Outcomes = Callable[[str], dict[str, str]]


READS = [name for name in attempts.REFUSED if name.startswith("open by")]
READS += ["open", "open outside", "list"]
"""These are Landlock's where something may be read."""
NO_THREAD = """RuntimeError("can't start new thread")"""
QUIET = {"another's limits", "a signal by descriptor"}
"""Not watched, since only an argument makes them different from what any program does."""


@needs_seccomp
@pytest.mark.parametrize("name", attempts.REFUSED)
def test_what_succeeds_outside_is_refused_inside(name: str, outcomes: Outcomes) -> None:
    refusal = NO_THREAD if name == "thread" else "EPERM"
    assert outcomes("free")[name] == "done"
    assert outcomes("shut")[name] == refusal
    if name not in READS:
        assert outcomes("open")[name] == refusal
    elif level().landlock:
        assert outcomes("open")[name] == "EACCES"


@needs_seccomp
@pytest.mark.parametrize("name", [*attempts.REFUSED, *attempts.PRIVILEGED])
def test_audit_kills_at_the_attempt(name: str, outcomes: Outcomes) -> None:
    end = "EPERM" if name in QUIET else "SIGSYS"
    assert outcomes("shut audit")[name] == end
    if name not in READS:
        assert outcomes("open audit")[name] == end
    elif level().landlock:
        assert outcomes("open audit")[name] == "EACCES"


@needs_seccomp
@pytest.mark.parametrize("name", attempts.PRIVILEGED)
def test_the_rest_of_the_kernel_is_refused(name: str, outcomes: Outcomes) -> None:
    for mode in ("shut", "open"):
        assert outcomes(mode)[name] == ("ENOSYS" if name == "clone3" else "EPERM")


@needs_seccomp
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", attempts.WORK)
def test_work_goes_on_inside(name: str, mode: str, outcomes: Outcomes) -> None:
    assert outcomes(mode)[name] == "done"


@needs_seccomp
@pytest.mark.parametrize("name", attempts.READ)
def test_reading_needs_a_permission(name: str, outcomes: Outcomes) -> None:
    for mode in ("free", "open", "open audit"):
        assert outcomes(mode)[name] == "done"
    assert outcomes("shut")[name] != "done"
    assert outcomes("shut audit")[name] == ("EPERM" if name == "stat" else "SIGSYS")


@needs_linux
def test_the_level_is_told_as_it_is() -> None:
    code = (
        "from pathlib import Path\n"
        "from engine import sandbox\n"
        "{without}\n"
        "print(sandbox.enter([Path('engine')]))\n"
        "print(Path('pyproject.toml').read_text()[:15].strip())\n"
    )
    no_landlock = "sandbox._CREATE_RULESET = 1023"  # a number that no kernel knows
    no_seccomp = "sandbox.MACHINES = {}"
    for without in (no_landlock, no_seccomp, f"{no_landlock}; {no_seccomp}"):
        done = in_child(code.format(without=without))
        expected = Sandbox(
            level().seccomp and no_seccomp not in without,
            0 if no_landlock in without else level().landlock,
        )
        said, *read = done.stdout.splitlines()
        assert said == str(expected)
        # Without Landlock, reads stay open.
        assert read == ([] if expected.landlock else ["[build-system]"])
        assert ("PermissionError" in done.stderr) == (expected.landlock > 0)


def test_elsewhere_it_does_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox.enter(audit=True) == Sandbox(False, 0)
    assert Path(__file__).read_text()


def test_a_level_is_one_word_of_a_log_line() -> None:
    levels = [Sandbox(True, 7), Sandbox(True, 0), Sandbox(False, 3), Sandbox(False, 0)]
    assert [str(it) for it in levels] == ["seccomp+landlock 7", "seccomp", "landlock 3", "none"]


@pytest.mark.parametrize(
    "version, expected",
    [
        (1, (0x1FFF, 0, 0)),
        (2, (0x3FFF, 0, 0)),
        (3, (0x7FFF, 0, 0)),
        (4, (0x7FFF, 3, 0)),
        (5, (0xFFFF, 3, 0)),
        (6, (0xFFFF, 3, 3)),
        (9, (0xFFFF, 3, 3)),
    ],
)
def test_landlock_refuses_all_that_its_version_can(version: int, expected: tuple) -> None:
    assert sandbox.rights(version) == expected


# The filter.


def verdict(program: bytes, number: int, arch: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What the kernel would do with a call: the filter's few instructions, read anew."""
    data = struct.pack("<IIQ6Q", number, arch, 0x1234, *arguments)
    accumulator, at = 0, 0
    while True:
        code, then, otherwise, operand = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += then if accumulator == operand else otherwise
            case 0x35:
                at += then if accumulator >= operand else otherwise
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"instruction {code:#x}")


def numbers(calls: sandbox.Numbers, machine: str) -> dict[str, int]:
    column = list(sandbox.MACHINES).index(machine)
    return {name: given for name, pair in calls.items() if (given := pair[column]) is not None}


def may(name: str, arguments: tuple[int, ...], *, reading: bool) -> bool:
    """Whether the arguments are those of an allowed call, in the words of the C headers."""
    given = [argument & 0xFFFFFFFF for argument in arguments]
    match name:
        case "open":
            return given[1] & (WRITES | O_TMPFILE_ALONE) == 0
        case "openat":
            return given[2] & (WRITES | O_TMPFILE_ALONE) == 0
        case "fcntl":  # F_DUPFD ... F_SETFL, F_DUPFD_CLOEXEC
            return given[1] <= 4 or given[1] == 1024 + 6
        case "ioctl":  # TCGETS, FIONREAD, FIONBIO, FIOCLEX
            return given[1] in (0x5401, 0x541B, 0x5421, 0x5451)
        case "prlimit64":
            return given[0] == 0
        case "newfstatat":
            return reading or given[3] == 0x1000
    return True


def some_arguments() -> list[tuple[int, ...]]:
    """Small numbers, flags, what is near to an allowed value, and dirt in the upper halves."""
    luck = random.Random(0)
    values = [0, 1, 2, 3, 4, 5, 8, 1024, 1030, 0x1000, 0x1100, 0x5401, 0x5412, 0x5421, 0x5451]
    values += [0x541B, 0x80000, 0o100, 0o1000, O_TMPFILE_ALONE, 0o2000000, 0xFFFFFFFF, 0xFFFFFF9C]
    same = [(value,) * 6 for value in values]
    mixed = [tuple(luck.choice(values) for _ in range(6)) for _ in range(100)]
    dirty = [tuple(value | luck.getrandbits(32) << 32 for value in call) for call in mixed]
    return [*same, *mixed, *dirty]


@pytest.mark.parametrize("machine, reading, audit", FILTERS)
def test_exactly_the_listed_calls_are_allowed(machine: str, reading: bool, audit: bool) -> None:
    program = sandbox.program(machine, reading=reading, audit=audit)
    arch = sandbox.MACHINES[machine].audit_arch
    listed = sandbox.ALLOWED | sandbox.READING if reading else sandbox.ALLOWED
    names = {number: name for name, number in numbers(listed, machine).items()}
    watched = set(numbers(sandbox.WATCHED, machine).values()) if audit else set()
    answered = set() if reading else set(numbers(sandbox.YES, machine).values())
    tried = some_arguments()
    for number in range(1200):
        for arguments in tried if names.get(number) in sandbox.LIMITED else tried[:3] + tried[-3:]:
            expected = KILL if number in watched else EPERM
            if number == 435 and not audit:
                expected = ENOSYS
            if number in answered:
                expected = EPERM - 1  # no error: success
            if number in names and may(names[number], arguments, reading=reading):
                expected = ALLOW
            assert verdict(program, number, arch, arguments) == expected, (number, arguments)


@pytest.mark.parametrize("machine, reading, audit", FILTERS)
def test_another_machines_numbers_are_no_way_in(machine: str, reading: bool, audit: bool) -> None:
    program = sandbox.program(machine, reading=reading, audit=audit)
    arch = sandbox.MACHINES[machine].audit_arch
    i386, arm = 0x40000003, 0x40000028
    others = {it.audit_arch for it in sandbox.MACHINES.values()} - {arch} | {i386, arm, 0}
    for number in range(600):
        assert {verdict(program, number, other) for other in others} == {KILL}
        for x32 in (0x40000000 + number, 0xFFFFFFFF - number):
            assert verdict(program, x32, arch) == KILL


@pytest.mark.parametrize("machine, reading, audit", FILTERS)
def test_every_jump_lands_and_every_way_ends(machine: str, reading: bool, audit: bool) -> None:
    program = sandbox.program(machine, reading=reading, audit=audit)
    instructions = list(struct.iter_unpack("<HBBI", program))
    assert len(instructions) < 4096  # the kernel takes no more
    for at, (code, then, otherwise, _) in enumerate(instructions):
        if code in (0x15, 0x35):
            assert at + 1 + max(then, otherwise) < len(instructions)
    assert instructions[-1][0] == 0x06


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here")
    text = HEADERS[machine].read_text()
    named = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    # In the generic header this call goes by the name of its 32-bit sibling.
    named.setdefault("newfstatat", named.get("fstatat", "0"))
    assert int(named["seccomp"]) == sandbox.MACHINES[machine].seccomp
    listed = sandbox.ALLOWED | sandbox.READING | sandbox.WATCHED
    known = numbers(listed, machine)
    assert known == {name: int(named[name]) for name in known}
    missing = set(listed) - set(known)
    assert not missing & set(named), "these exist there"


def test_nothing_watched_is_allowed_but_to_read() -> None:
    assert not set(sandbox.ALLOWED) & set(sandbox.WATCHED)
    assert set(sandbox.READING) & set(sandbox.WATCHED) == {"open", "openat"}
    assert set(sandbox.LIMITED | sandbox.WITHOUT_PATHS) <= set(sandbox.ALLOWED | sandbox.READING)


# The limits.

LOOP = "while True: pass"
SPIN = "sum(iter(int, 1))"
HASH = "__import__('hashlib').pbkdf2_hmac('sha256', b'a', b'b', 1 << 30)"
ALLOWED_S = 0.2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root only")


def spent(code: str) -> tuple[int, float]:
    """The signal that ended the code, and the processor time that it used after its "go"."""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        before_s = float(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    return status, usage.ru_utime + usage.ru_stime - before_s


GO = "import os, time; os.write(1, str(time.process_time()).encode())\n"


@needs_linux
@pytest.mark.parametrize("code", [LOOP, SPIN, HASH])
def test_the_timer_ends_a_loop_in_python_and_in_c(code: str) -> None:
    prelude = "from engine import limits, sandbox; import hashlib; sandbox.enter()\n"
    timer = f"limits.cpu_timer({ALLOWED_S})\n"

    def ended() -> tuple[int, float]:
        status, used_s = spent(prelude + timer + GO + code)
        assert os.WTERMSIG(status) == signal.SIGPROF
        assert used_s >= ALLOWED_S / 2
        return status, used_s

    first_below(ALLOWED_S * 2, ended)


@needs_linux
def test_the_timer_can_be_called_off() -> None:
    busy = f"while time.process_time() < {3 * ALLOWED_S}: pass\n"
    prelude = f"from engine import limits; limits.cpu_timer({ALLOWED_S}); limits.cpu_timer(0)\n"
    assert spent(prelude + GO + busy)[0] == 0


@needs_linux
def test_the_timer_works_whatever_the_parent_left() -> None:
    prelude = (
        "import signal\n"
        "signal.signal(signal.SIGPROF, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})\n"
        "from engine import limits\n"
        f"limits.cpu_timer({ALLOWED_S})\n"
    )
    busy = "while time.process_time() < 10: pass\n"
    assert os.WTERMSIG(spent(prelude + GO + busy)[0]) == signal.SIGPROF


@needs_root
def test_root_becomes_nobody_for_good() -> None:
    done = in_child(
        "import os\n"
        "from engine import limits\n"
        "limits.become_nobody()\n"
        "print(*os.getresuid(), *os.getresgid(), *os.getgroups())\n"
        "for back in (os.setuid, os.seteuid, os.setgid):\n"
        "    try:\n        back(0)\n        print(back)\n"
        "    except PermissionError:\n        pass\n"
    )
    assert done.stdout.split() == [str(limits.NOBODY)] * 6, done.stderr


@needs_linux
def test_a_confined_user_starts_no_process() -> None:
    done = in_child(
        "import os\n"
        "from engine import limits\n"
        "limits.become_nobody()\n"
        "limits.confine(1 << 30)\n"
        "print(os.geteuid() != 0)\n"
        "os.fork()\n"
    )
    if done.stdout.split() != ["True"]:
        pytest.skip("root, which may not become nobody")
    assert "BlockingIOError" in done.stderr


@needs_linux
def test_a_nobody_ends_with_its_parent() -> None:
    """Both hold the pipe's end, so the pipe ends when both have."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal, time\n"
            "from engine import limits, sandbox\n"
            "parent = os.getpid()\n"
            "if os.fork() == 0:\n"
            "    limits.die_with(parent)\n"
            "    limits.become_nobody()\n"
            "    limits.die_with(parent)\n"
            "    limits.confine(1 << 30)\n"
            "    sandbox.enter()\n"
            "    os.write(1, b'x')\n"
            f"    time.sleep({WAIT_S})\n"
            "signal.pause()\n",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.read(1) == b"x"
        parent.kill()
        began = time.monotonic()
        assert parent.stdout.read() == b""
    assert time.monotonic() - began < WAIT_S / 2
    parent.wait()
