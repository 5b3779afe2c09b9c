"""What a process that meets hostile text may still ask of the kernel: to compute, to talk over the
descriptors that it holds, and to read below a few directories, or nowhere.

Two layers, both irrevocable and open to any user. A filter of system calls (seccomp) is a list of
what is allowed; anything else fails with EPERM. Landlock binds the paths that may be read. Where
the kernel or the machine lacks one, `enter` goes on without it and says so. Memory, processor time
and the user are the matter of `engine.limits`.

What stays possible: altering what was opened for writing before, and asking whether a path exists.
(Landlock has no say in that; with nothing to read, the filter still has to allow the C library's
`fstat`, a call that takes a path too, which a filter can't read.)
"""

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Numbers = dict[str, tuple[int | None, int | None]]
"""A system call's number on x86_64 and on aarch64; None where there is no such call."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The layers that are in force."""

    seccomp: bool
    landlock: int
    """Version of the kernel's interface; 0 where it is not in force."""

    def __str__(self) -> str:
        layers = ["seccomp"] * self.seccomp + [f"landlock {self.landlock}"] * (self.landlock > 0)
        return "+".join(layers) or "none"


@dataclass(frozen=True, slots=True)
class Only:
    """A call is allowed where (its argument of that position & mask) is one of the values."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


def enter(read: Sequence[Path] = (), *, audit: bool = False) -> Sandbox:
    """Give up everything else, for good. For a process that is warm and has one thread.

    Afterwards it starts no process or thread, executes nothing, has no new socket, signals nobody,
    and opens a file only for reading below `read` (paths that don't exist are skipped); with
    `read` empty it opens none at all. Where Landlock is missing and `read` is not empty, it can
    read any file that its user can. With `audit` an attempt at one of `WATCHED` kills the process
    (SIGSYS), so that tests see attempts which otherwise are refused in silence.
    """
    if sys.platform != "linux":
        return Sandbox(False, 0)
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock = _fence(read)
    machine = os.uname().machine
    if machine not in MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return Sandbox(False, landlock)
    code = program(machine, reading=bool(read), audit=audit)
    return Sandbox(_install(MACHINES[machine], code), landlock)


_CLONE3 = 435

# What may be called. The order matters to old kernels, which compare one by one.
# fmt: off
_DESCRIPTORS: Numbers = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "recvfrom": (45, 207), "sendto": (44, 206), "recvmsg": (47, 212), "sendmsg": (46, 211),
    "pread64": (17, 67), "pwrite64": (18, 68), "lseek": (8, 62), "fstat": (5, 80),
    "newfstatat": (262, 79), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "ioctl": (16, 29),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22),
}
_MEMORY: Numbers = {
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "brk": (12, 214), "futex": (202, 98), "membarrier": (324, 283),
    "set_robust_list": (273, 99), "rseq": (334, 293),
}
_TIME_AND_SIGNALS: Numbers = {
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "setitimer": (38, 103), "getitimer": (36, 102), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
}
_ITSELF: Numbers = {
    "getrandom": (318, 278), "getrusage": (98, 165), "prlimit64": (302, 261),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "uname": (63, 160), "sysinfo": (99, 179),
    "getcpu": (309, 168), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getcwd": (79, 17), "exit": (60, 93), "exit_group": (231, 94),
}
ALLOWED: Numbers = _DESCRIPTORS | _MEMORY | _TIME_AND_SIGNALS | _ITSELF
"""Some of them `LIMITED`."""
READING: Numbers = {
    "openat": (257, 56), "open": (2, None), "stat": (4, None), "lstat": (6, None),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "statfs": (137, 43), "fstatfs": (138, 44),
}
"""Allowed as well where there is something to read."""
YES: Numbers = {"access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439)}
"""Answered with success, unseen, where nothing may be read: cairo asks before it draws with a font
whether its file, which it holds open, is still readable."""
WATCHED: Numbers = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "open_by_handle_at": (304, 265), "truncate": (76, 45), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None),
    "mknodat": (259, 33), "chmod": (90, None), "fchmodat": (268, 53), "chown": (92, None),
    "fchownat": (260, 54),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "pipe": (22, None),
    "pipe2": (293, 59),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "clone": (56, 220), "clone3": (_CLONE3, _CLONE3),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "add_key": (248, 217), "memfd_create": (319, 279),
}
"""What `audit` kills for, unless it is allowed. Harmless programs don't try any of it."""
# fmt: on

_AT_EMPTY_PATH = 0x1000
_WRITES = 0o3 | 0o100 | 0o1000 | 0o20000000  # O_ACCMODE, O_CREAT, O_TRUNC, the bit of O_TMPFILE

LIMITED = {
    "open": Only(1, (0,), mask=_WRITES),
    "openat": Only(2, (0,), mask=_WRITES),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; no owner who gets signals.
    "fcntl": Only(1, (0, 1, 2, 3, 4, 1030)),
    # TCGETS (which `open` asks whether a file is a terminal), FIONREAD, FIONBIO, FIOCLEX.
    "ioctl": Only(1, (0x5401, 0x541B, 0x5421, 0x5451)),
    "prlimit64": Only(0, (0,)),  # its own limits
}
WITHOUT_PATHS = {"newfstatat": Only(3, (_AT_EMPTY_PATH,))}
"""Limits of calls where nothing may be read; see the head of this module."""


# The filter: a program of the kernel's classic BPF, which sees a call's number and arguments.
@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processors."""

    column: int
    """Of `Numbers`."""
    audit_arch: int
    seccomp: int
    """Number of that system call."""


MACHINES = {"x86_64": Machine(0, 0xC000003E, 317), "aarch64": Machine(1, 0xC00000B7, 277)}

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
"""Verdicts; the number of the error is added to the last."""
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_X32 = 0x40000000
"""Set in the numbers of a second interface of x86_64, which would slip through the list."""


def program(machine: str, *, reading: bool, audit: bool) -> bytes:
    """The filter. A call's instructions are skipped as one where the number is another, so no jump
    is longer than a call has values."""
    column = MACHINES[machine].column
    limited = LIMITED if reading else LIMITED | WITHOUT_PATHS
    allowed = _numbers(ALLOWED | READING if reading else ALLOWED, column)
    watched = _numbers(WATCHED, column) if audit else {}
    code = [_load(_ARCH), _equal(MACHINES[machine].audit_arch, then=1), _end(KILL)]
    code += [_load(_NUMBER), _at_least(_X32, otherwise=1), _end(KILL)]
    for name, number in allowed.items():
        refusal = KILL if name in watched else ERRNO + errno.EPERM
        code += _case(number, _checked(limited[name], refusal) if name in limited else [_ALLOWED])
    for name, number in watched.items():
        if name not in allowed:
            code += _case(number, [_end(KILL)])
    answered = {} if reading else _numbers(YES, column)
    for number in answered.values():
        code += _case(number, [_end(ERRNO)])
    if not audit:  # the C library then tries `clone`, which is refused
        code += _case(_CLONE3, [_end(ERRNO + errno.ENOSYS)])
    code.append(_end(ERRNO + errno.EPERM))
    return b"".join(code)


def _numbers(calls: Numbers, column: int) -> dict[str, int]:
    found = {name: numbers[column] for name, numbers in calls.items()}
    return {name: number for name, number in found.items() if number is not None}


def _case(number: int, body: list[bytes]) -> list[bytes]:
    return [_equal(number, otherwise=len(body)), *body]


def _checked(only: Only, refusal: int) -> list[bytes]:
    # The low half of the argument: both machines are little-endian, and each is an `int`.
    body = [_load(_ARGUMENTS + 8 * only.argument), _and(only.mask)]
    for value in only.values:
        body += _case(value, [_ALLOWED])
    return [*body, _end(refusal)]


def _instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, operand)


def _load(offset: int) -> bytes:
    return _instruction(0x20, offset)  # BPF_LD | BPF_W | BPF_ABS


def _and(mask: int) -> bytes:
    return _instruction(0x54, mask)  # BPF_ALU | BPF_AND | BPF_K


def _equal(value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return _instruction(0x15, value, then, otherwise)  # BPF_JMP | BPF_JEQ | BPF_K


def _at_least(value: int, *, otherwise: int) -> bytes:
    return _instruction(0x35, value, 0, otherwise)  # BPF_JMP | BPF_JGE | BPF_K


def _end(verdict: int) -> bytes:
    return _instruction(0x06, verdict)  # BPF_RET | BPF_K


_ALLOWED = _end(ALLOW)

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS, _NO_SLOWDOWN = 1, 1, 4


def _install(machine: Machine, code: bytes) -> bool:
    memory = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(memory))
    # Before Linux 5.16 a filter also switched off store bypass in the processor, which slows
    # Python down, unless it was told not to; what doesn't know that flag refuses it.
    return any(
        _call(machine.seccomp, _SET_MODE_FILTER, flags, header) == 0
        for flags in (_ALL_THREADS | _NO_SLOWDOWN, _ALL_THREADS)
    )


# The fence: Landlock, whose three calls have the same numbers on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3


def rights(version: int) -> tuple[int, int, int]:
    """All that an interface of this version can refuse: file-system, network, and other rights."""
    # 13 at first; renaming between directories, truncation, devices' ioctl. 4: TCP's bind and
    # connect. 6: abstract Unix sockets, and signals to processes outside.
    num_files = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << num_files) - 1, 0b11 * (version >= 4), 0b11 * (version >= 6)


def _fence(read: Sequence[Path]) -> int:
    """Bind the process to reading below `read`. Returns the version in force."""
    version = _call(_CREATE_RULESET, 0, 0, _VERSION)
    if version < 1:
        return 0
    attributes = struct.pack("=QQQ", *rights(version))
    # An older kernel takes the longer structure where what it doesn't know is zero.
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return 0
    try:
        for path in read:
            _admit(ruleset, path)
        return version if _call(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _admit(ruleset: int, path: Path) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # nothing is there, or not for this user
        return
    try:
        may_read = _READ_FILE | (_READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else 0)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", may_read, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes) -> int:
    """A system call, given integers and pointers to bytes; -1 where it fails."""
    passed = [
        ctypes.c_char_p(given) if isinstance(given, bytes) else ctypes.c_long(given)
        for given in arguments
    ]
    return int(_libc().syscall(ctypes.c_long(number), *passed))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
