"""A process that works on foreign bytes: little memory, time and disk, no network, no new rights, a folder of its own.

`confine` is called by such a process on itself, before it imports anything large (a process with threads cannot leave
its user namespace). What the kernel does not allow is left out and named: the answer says what holds. Landlock cannot
keep it from changing modes, owners and times of its user's files, nor from reading what its user may read. `watched`
is its keeper: a process that ends it with all that it started. It must never be the only defence: what such a process
hands back is checked like anything from outside.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MOST_THREADS = 4096  # of a confined process and all that it starts
OUT_OF_TIME = 124  # exit code of a keeper that had to end its process
BY_SIGNAL = 128  # and with a signal's number added, of one whose process a signal ended
KILLING_S = 10.0  # how long a keeper tries to end what goes on starting processes
# Landlock (Linux 5.13 and later): numbers are the same on every architecture
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
VERSION = 1  # flag of CREATE_RULESET: return the ABI instead
# WRITE_FILE, and REMOVE_DIR … MAKE_SYM of include/uapi/linux/landlock.h: everything that makes, removes or writes a
# file, and EXECUTE, so that no program is started. Older kernels know neither REFER (ABI 2) nor TRUNCATE (ABI 3).
EXECUTE, WRITE_FILE, REFER, TRUNCATE = 1 << 0, 1 << 1, 1 << 13, 1 << 14
CHANGES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
WITH_REFER, WITH_TRUNCATE, WITH_SCOPES = 2, 3, 6  # ABI
NO_FOREIGN_SOCKETS, NO_FOREIGN_SIGNALS = 1 << 0, 1 << 1  # scopes


@dataclass(frozen=True)
class Limits:
    """What a confined process may use."""

    memory_bytes: int = 24 << 30  # address space: libraries of networks reserve far more than they use
    cpu_s: int = 3600
    file_bytes: int = 4 << 30  # of one file
    open_files: int = 256
    wall_s: float = 3600.0


def confine(limits: Limits, folder: Path) -> list[str]:
    """Give up what this process will not need; return what holds now. Files can be changed in `folder` alone."""
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))
    held = ["limits on memory, time, file size and open files"]
    libc = ctypes.CDLL(None, use_errno=True)
    if _without_network(libc):
        held.append("no network")
        if os.getuid() != 0:  # root has no such limit; others have a user namespace of their own by now
            resource.setrlimit(resource.RLIMIT_NPROC, (MOST_THREADS, MOST_THREADS))
            held.append(f"at most {MOST_THREADS} processes and threads")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.append("no new privileges")
    return held + _landlocked(libc, folder)


def _without_network(libc: ctypes.CDLL) -> bool:
    """Move to a network namespace without any interface, by a user namespace where that is needed."""
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        pass  # the process is nobody then, with the same rights on files
    return True


def _landlocked(libc: ctypes.CDLL, folder: Path) -> list[str]:
    """Forbid, by Landlock, to start programs and to change files outside of `folder`; return what holds."""
    abi = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    if abi < 1:
        return []
    changes = CHANGES | (REFER if abi >= WITH_REFER else 0) | (TRUNCATE if abi >= WITH_TRUNCATE else 0)
    scopes = NO_FOREIGN_SOCKETS | NO_FOREIGN_SIGNALS if abi >= WITH_SCOPES else 0
    wanted = struct.pack("=QQQ", EXECUTE | changes, 0, scopes) if scopes else struct.pack("=Q", EXECUTE | changes)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, wanted, ctypes.c_size_t(len(wanted)), 0)
    if ruleset < 0:
        return []
    try:
        allowed = _allow(libc, ruleset, folder, changes)
        allowed = allowed and _allow(libc, ruleset, Path("/dev/null"), changes & (WRITE_FILE | TRUNCATE))
        if not allowed or libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            return []
    finally:
        os.close(ruleset)
    held = ["no program is started"]
    if abi >= WITH_TRUNCATE:
        held.append("files are made, written and removed in its own folder only (modes and times may change anywhere)")
    if scopes:
        held.append("no signal reaches a process that it did not start")
    return held


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, allowed: int) -> bool:
    opened = os.open(path, os.O_PATH)
    try:
        rule = struct.pack("=Qi", allowed, opened)
        return bool(libc.syscall(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, rule, 0) == 0)
    finally:
        os.close(opened)


# --- the keeper ---


def watched(work: Callable[[], None], wall_s: float) -> int:
    """Do `work` in a child for at most `wall_s` and end all that it started; return how the child ended.

    0 or the child's exit code, OUT_OF_TIME, or BY_SIGNAL + the signal. Call it before threads are there. SIGTERM, and
    the death of the process that started this one, end the child too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whatever the child leaves behind becomes a child of this process
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    before = signal.signal(signal.SIGTERM, _asked_to_end)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _worked(work)
    try:
        return _ended(child, time.monotonic() + wall_s)
    finally:
        signal.signal(signal.SIGTERM, before)
        kill_children()


def _worked(work: Callable[[], None]) -> None:
    """Do `work` as the child that ends here, whatever happens."""
    code = 1
    try:
        work()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _asked_to_end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(BY_SIGNAL + number)


def _ended(child: int, until: float) -> int:
    """Return how `child` ended, or OUT_OF_TIME; other children that end meanwhile are forgotten."""
    while time.monotonic() < until:
        gone, status = os.waitpid(-1, os.WNOHANG)
        if gone == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else BY_SIGNAL - code
        if not gone:
            time.sleep(0.05)
    return OUT_OF_TIME


def kill_children() -> None:
    """Kill the children of this process, and theirs as they become its own, until there is none."""
    until = time.monotonic() + KILLING_S
    while time.monotonic() < until:
        with suppress(OSError):  # a child that is gone meanwhile; a kernel that does not list them
            for child in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
