"""A filter of system calls for Linux, with which a decoder can only compute and read files.

A file that takes over a decoder reaches the system by its calls. The filter refuses those that
open or use network connections, write, make, rename or delete files, start programs or processes,
trace, signal or limit others, or are a usual way to attack the kernel. Threads, memory and reading
stay as they are. It needs no privileges (`PR_SET_NO_NEW_PRIVS`) and cannot be removed.

Numbers of calls: Linux, arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h. Instructions: include/uapi/linux/bpf_common.h.

Does not know: what is decoded.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IS_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IS_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000  # SECCOMP_RET_ERRNO; the error is in the lower half
_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS

#: Offsets in `struct seccomp_data`.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
#: Numbers from here are calls of the x32 ABI.
_X32: Final = 0x40000000

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
#: All threads get the filter; speculation stays as fast as before.
_FLAGS: Final = 1 | 4  # SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW

_CLONE_THREAD: Final = 0x00010000
_ALL: Final = 0xFFFFFFFF
#: Commands of `fcntl` by which the system sends other processes signals, or makes them wait:
#: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY.
_SIGNALLING: Final = (8, 10, 15, 1024, 1026)
#: Requests of `ioctl` that Python and libraries make: TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD,
#: FIONBIO, FIONCLEX, FIOCLEX. Others write to terminals, or send signals as `fcntl` does.
_HARMLESS: Final = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
#: Flags of `open` with which a file is changed: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE.
_WRITING: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000

#: Calls that both architectures have, in this order: x86_64, aarch64.
_REFUSED: Final[Mapping[str, tuple[int, int]]] = {
    # network
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "connect": (42, 203), "accept4": (288, 242), "sendmsg": (46, 211),
    "sendmmsg": (307, 269), "setsockopt": (54, 208),
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "sched_setaffinity": (203, 122), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "process_mrelease": (448, 448),
    # files
    "unlinkat": (263, 35), "renameat": (264, 38), "renameat2": (316, 276), "mkdirat": (258, 34),
    "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "file_setattr": (469, 469), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    # memory and queues that outlive the process
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190),
    "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # the system
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "swapon": (167, 224),
    "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161),
    "setdomainname": (171, 162), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "unshare": (272, 97), "setns": (308, 268), "personality": (135, 92),
    "vhangup": (153, 58), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0), "vmsplice": (278, 75), "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Architecture:
    """Numbers of one architecture.

    Attributes:
        audit: its name in `seccomp_data`.
        column: of `_REFUSED`.
        seccomp: number of the call that sets a filter.
        refused: further calls that are refused.
        missing: calls that are answered as if the kernel had none, so that libraries use others:
            their arguments are in memory, where a filter cannot see them.
        clone: number of the call that starts threads and processes.
        opens: calls that open files, and which argument has the flags.
        kills: calls that send signals; their first argument is the process.
        prlimit: number of the call that limits a process, its first argument.
        fcntl: number of the call; the second argument is the command.
        ioctl: number of the call; the second argument is the request.
    """

    audit: int
    column: int
    seccomp: int
    refused: tuple[int, ...]
    missing: tuple[int, ...]
    clone: int
    opens: Mapping[int, int]
    kills: tuple[int, ...]
    prlimit: int
    fcntl: int
    ioctl: int


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(
        audit=0xC000003E, column=0, seccomp=317,
        # fork, vfork, rename, mkdir, rmdir, creat, link, unlink, symlink, chmod, chown, lchown,
        # utime, mknod, uselib, iopl, ioperm, modify_ldt, utimes, inotify_init, futimesat, tuxcall
        refused=(
            57, 58, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 132, 133, 134, 172, 173, 154, 235, 253,
            261, 184,
        ),
        missing=(435, 437), clone=56, opens={2: 1, 257: 2}, kills=(62, 234), prlimit=302,
        fcntl=72, ioctl=16,
    ),
    "aarch64": _Architecture(
        audit=0xC00000B7, column=1, seccomp=277, refused=(),
        missing=(435, 437), clone=220, opens={56: 2}, kills=(129, 131), prlimit=261, fcntl=25,
        ioctl=29,
    ),
}  # fmt: skip
_ARCHITECTURES["AMD64"] = _ARCHITECTURES["x86_64"]
_ARCHITECTURES["arm64"] = _ARCHITECTURES["aarch64"]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_calls() -> bool:
    """Refuse dangerous system calls from now on; return whether they are refused."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or architecture is None or sys.maxsize < 2**32:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    code = b"".join(_instructions(architecture, os.getpid()))
    program = _Program(len(code) // 8, code)
    answer: int = libc.syscall(
        architecture.seccomp, _SET_MODE_FILTER, _FLAGS, ctypes.byref(program)
    )
    return answer == 0


def _instructions(architecture: _Architecture, pid: int) -> Sequence[bytes]:
    """Return the program of the filter.

    Args:
        architecture: its numbers.
        pid: the process that may get signals: abort() sends one to itself.
    """
    refuse, missing = _FAIL | errno.EPERM, _FAIL | errno.ENOSYS
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_IS_EQUAL, architecture.audit, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
        _line(_IS_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, refuse),
    ]
    numbers = [columns[architecture.column] for columns in _REFUSED.values()]
    for number in (*numbers, *architecture.refused):
        lines += [_line(_IS_EQUAL, number, 0, 1), _line(_RETURN, refuse)]
    for number in architecture.missing:
        lines += [_line(_IS_EQUAL, number, 0, 1), _line(_RETURN, missing)]
    for number, argument, mask, values in (
        (architecture.clone, 0, _CLONE_THREAD, (_CLONE_THREAD,)),
        *((number, argument, _WRITING, (0,)) for number, argument in architecture.opens.items()),
        *((number, 0, _ALL, (pid,)) for number in architecture.kills),
        (architecture.prlimit, 0, _ALL, (0, pid)),
        (architecture.ioctl, 1, _ALL, _HARMLESS),
    ):
        lines += _check(number, argument, mask, values, found=_ALLOW, otherwise=refuse)
    lines += _check(architecture.fcntl, 1, _ALL, _SIGNALLING, found=refuse, otherwise=_ALLOW)
    return [*lines, _line(_RETURN, _ALLOW)]


def _check(  # noqa: PLR0913 - one rule
    number: int, argument: int, mask: int, values: Sequence[int], *, found: int, otherwise: int
) -> list[bytes]:
    """Return the instructions that decide on one call by one of its arguments.

    Args:
        number: of the call.
        argument: index of the argument; the kernel, too, uses only its lower half.
        mask: bits of it that count.
        values: what it is compared with.
        found: answer if it is one of the values.
        otherwise: answer if it is none of them.
    """
    low = 0 if sys.byteorder == "little" else 4
    count = len(values)
    return [
        _line(_IS_EQUAL, number, 0, count + 4),
        _line(_LOAD, _ARGUMENTS + 8 * argument + low),
        _line(_AND, mask),
        *(_line(_IS_EQUAL, value, count - at, 0) for at, value in enumerate(values)),
        _line(_RETURN, otherwise),
        _line(_RETURN, found),
    ]


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction, `struct sock_filter`."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
