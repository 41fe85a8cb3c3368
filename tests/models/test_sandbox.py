"""A confined process can do what it needs and no more, and nothing that it started outlives its keeper."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models import sandbox

HOUSE = Path(__file__).parents[2]
TRIES = """
import json, os, socket, subprocess, sys
from pathlib import Path
from models.sandbox import Limits, confine

inside, outside, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
answer = {"held": confine(Limits(), inside)}


def tried(name, what):
    try:
        what()
    except OSError as error:
        answer[name] = error.strerror
    else:
        answer[name] = "done"


def connect():
    socket.create_connection(("127.0.0.1", port), 2).close()


tried("write inside", lambda: (inside / "a").write_text("b"))
tried("truncate inside", lambda: os.truncate(inside / "a", 0))
tried("rename inside", lambda: ((inside / "d").mkdir(), (inside / "a").rename(inside / "d" / "a")))
tried("null", lambda: open("/dev/null", "w").close())
tried("open", lambda: open(outside, "r+").close())
tried("create", lambda: outside.with_name("new").write_text("x"))
tried("truncate", lambda: os.truncate(outside, 0))
tried("remove", lambda: outside.unlink())
tried("link", lambda: os.link(outside, inside / "link"))
tried("exec", lambda: subprocess.run(["/bin/true"]))
tried("connect", connect)
tried("signal", lambda: os.kill(os.getppid(), 0))
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a confined process could do, and whether the file outside is what it was."""
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "inside").mkdir()
    outside = folder / "outside"
    outside.write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [str(folder / "inside"), str(outside), str(server.getsockname()[1])]
        ran = subprocess.run(
            [sys.executable, "-c", TRIES, *arguments], capture_output=True, text=True, cwd=HOUSE, check=True
        )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found | {"outside": outside.read_text(), "beside": sorted(one.name for one in folder.iterdir())}


def held(answer: dict[str, Any], word: str) -> None:
    """Skip where this kernel does not allow what is to be tested; the answer says so, too."""
    if not any(word in one for one in answer["held"]):
        pytest.skip(f"this kernel does not hold: {word}")


@pytest.mark.parametrize("what", ["write inside", "truncate inside", "rename inside", "null"])
def test_what_a_confined_process_needs_is_allowed(answer: dict[str, Any], what: str) -> None:
    assert answer[what] == "done"


@pytest.mark.parametrize("what", ["open", "create", "truncate", "remove", "link"])
def test_nothing_outside_of_its_folder_is_changed(answer: dict[str, Any], what: str) -> None:
    held(answer, "written and removed in its own folder only")
    assert answer[what] in ("Permission denied", "Invalid cross-device link")
    assert answer["outside"] == "precious"
    assert answer["beside"] == ["inside", "outside"]


def test_no_program_is_started(answer: dict[str, Any]) -> None:
    held(answer, "no program")
    assert answer["exec"] == "Permission denied"


def test_no_network_is_reached(answer: dict[str, Any]) -> None:
    held(answer, "no network")
    assert answer["connect"] != "done"


def test_no_foreign_process_is_signalled(answer: dict[str, Any]) -> None:
    held(answer, "no signal")
    assert answer["signal"] == "Operation not permitted"


@pytest.mark.parametrize(("abi", "truncates"), [(0, False), (1, False), (2, False), (3, True)])
def test_an_older_kernel_is_asked_for_what_it_has_and_nothing_else_is_claimed(
    tmp_path: Path, abi: int, truncates: bool
) -> None:
    asked: list[bytes] = []

    class Libc:
        """Answers as a kernel of this ABI."""

        def syscall(self, number: int, *given: Any) -> int:
            if number == sandbox.LANDLOCK_CREATE_RULESET:
                if given[-1] == sandbox.VERSION:
                    return abi or -1
                asked.append(given[0])
                return os.open("/dev/null", os.O_RDONLY)
            return 0

    said = sandbox._landlocked(Libc(), tmp_path)  # type: ignore[arg-type]
    assert any("own folder only" in one for one in said) is truncates
    assert not any("no signal" in one for one in said)
    handled = int.from_bytes(asked[0], sys.byteorder) if asked else 0
    assert bool(handled & sandbox.TRUNCATE) is truncates
    assert bool(handled & sandbox.REFER) is (abi >= 2)


# --- the keeper ---

KEEPER = """
import os, sys, time
from pathlib import Path
from models.sandbox import watched

place = Path(sys.argv[1])


def work():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            (place / "started").write_text(str(os.getpid()))
            while True:
                time.sleep(1)
        os._exit(0)
    while not (place / "started").exists():
        time.sleep(0.01)
    {then}


sys.exit(watched(work, {wall_s}))
"""


def kept(tmp_path: Path, then: str, wall_s: float) -> subprocess.Popen[bytes]:
    code = KEEPER.format(then=then, wall_s=wall_s)
    return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=HOUSE)


def stray(tmp_path: Path) -> int:
    until = time.monotonic() + 20
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    return int((tmp_path / "started").read_text())


@pytest.mark.parametrize(
    ("then", "wall_s", "code"),
    [
        ("pass", 20, 0),
        ("os._exit(7)", 20, 7),
        ("raise ValueError", 20, 1),
        ("os.abort()", 20, sandbox.BY_SIGNAL + signal.SIGABRT),
        ("time.sleep(100)", 1, sandbox.OUT_OF_TIME),
    ],
)
def test_nothing_outlives_a_keeper_however_its_child_ends(tmp_path: Path, then: str, wall_s: float, code: int) -> None:
    assert kept(tmp_path, then, wall_s).wait(30) == code
    with pytest.raises(ProcessLookupError):
        os.kill(stray(tmp_path), 0)


def test_a_keeper_that_is_asked_to_end_takes_all_with_it(tmp_path: Path) -> None:
    keeper = kept(tmp_path, "time.sleep(100)", 100)
    last = stray(tmp_path)
    keeper.terminate()
    assert keeper.wait(30) == sandbox.BY_SIGNAL + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
