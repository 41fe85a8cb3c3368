"""A process that works on foreign bytes: little memory, time and disk, no network, no new rights, a folder of its own.

`confine` is called by such a process on itself, before it imports anything large (a process with threads cannot leave
its user namespace). What the kernel does not allow is left out and named: the answer says what holds. It must never
be the only defence: what such a process hands back is checked like anything from outside.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 38, 4
# Landlock (Linux 5.13 and later): numbers are the same on every architecture
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
# WRITE_FILE, and REMOVE_DIR … MAKE_SYM of include/uapi/linux/landlock.h: everything that changes a file system,
# and EXECUTE, so that no program is started
EXECUTE, CHANGES = 1 << 0, (1 << 1) | sum(1 << bit for bit in range(4, 13))


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
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.append("no new privileges")
    if _writing_only_below(libc, folder):
        held.append("files change in its own folder only, no program is started")
    return held


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


def _writing_only_below(libc: ctypes.CDLL, folder: Path) -> bool:
    """Forbid, by Landlock, to start programs and to change any file outside of `folder`."""
    handled = struct.pack("=Q", EXECUTE | CHANGES)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if ruleset < 0:
        return False
    try:
        for path, allowed in ((folder, CHANGES), (Path("/dev/null"), 1 << 1)):
            opened = os.open(path, os.O_PATH)
            try:
                rule = struct.pack("=Qi", allowed, opened)
                if libc.syscall(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, rule, 0) != 0:
                    return False
            finally:
                os.close(opened)
        return bool(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
