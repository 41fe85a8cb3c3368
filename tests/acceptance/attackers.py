"""Two hundred hostile connections at once, from other addresses of loopback than the honest peer's.

`python -m tests.acceptance.attackers PORT SECONDS COUNT` prints how many connections each kind made. Bounded in time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.raw_peer import COMMAND, EXPLICIT, MR, data, fragment, pdu, request

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
BLOCK = bytes(65000)


async def _associate(wire: Wire, name: str) -> bool:
    wire[1].write(request([(1, MR, [EXPLICIT])], calling=name))
    await wire[1].drain()
    head = await wire[0].read(6)
    return head[:1] == b"\2"


async def silent(wire: Wire, name: str) -> None:
    """Say nothing until cut."""
    await wire[0].read()


async def one_byte(wire: Wire, name: str) -> None:
    """Say one byte."""
    wire[1].write(b"\1")
    await wire[0].read()


async def slow_request(wire: Wire, name: str) -> None:
    """Send a request, a byte every half second."""
    for byte in request([(1, MR, [EXPLICIT])], calling=name):
        wire[1].write(bytes((byte,)))
        await wire[1].drain()
        await asyncio.sleep(0.5)


async def huge_length(wire: Wire, name: str) -> None:
    """Announce 4 GB and stream them."""
    wire[1].write(b"\1\0\xff\xff\xff\xff")
    for _ in range(1000):
        wire[1].write(BLOCK)
        await wire[1].drain()


async def big_request(wire: Wire, name: str) -> None:
    """Send a request of 128 contexts with 50 transfer syntaxes, and wait."""
    wire[1].write(BIG.replace(b"EVIL".ljust(16), name.ljust(16).encode()))
    await wire[0].read()


async def idle(wire: Wire, name: str) -> None:
    """Have an association and say nothing."""
    if await _associate(wire, name):
        await wire[0].read()


async def slow_data(wire: Wire, name: str) -> None:
    """Have an association and send a PDU a byte every half second."""
    if await _associate(wire, name):
        for byte in data(fragment(1, COMMAND, bytes(500))):
            wire[1].write(bytes((byte,)))
            await wire[1].drain()
            await asyncio.sleep(0.5)


async def endless_command(wire: Wire, name: str) -> None:
    """Have an association and send command fragments of which none is the last."""
    if await _associate(wire, name):
        for _ in range(1000):
            wire[1].write(data(fragment(1, COMMAND, BLOCK[:16000])))
            await wire[1].drain()


async def garbage(wire: Wire, name: str) -> None:
    """Send what is no DICOM."""
    wire[1].write(b"GET / HTTP/1.0\r\n\r\n" + BLOCK)
    await wire[0].read()


async def unknown_type(wire: Wire, name: str) -> None:
    """Send a PDU of no known type."""
    wire[1].write(pdu(0x99, bytes(100)))
    await wire[0].read()


KINDS: list[Callable[[Wire, str], Awaitable[None]]] = [
    silent, one_byte, slow_request, huge_length, big_request, idle, slow_data, endless_command, garbage, unknown_type,
]  # fmt: skip
BIG = request([(2 * n + 1, MR, [f"1.2.840.10008.1.2.4.{s}" for s in range(100, 150)]) for n in range(128)], "EVIL")


async def attacker(number: int, port: int, until: float, made: Counter[str]) -> None:
    """Connect again and again as one kind of peer."""
    act = KINDS[number % len(KINDS)]
    while time.monotonic() < until:
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            wire = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(f"127.0.{1 + number % 7}.{number % 250 + 1}", 0)
            )
            made[act.__name__] += 1
            try:
                await asyncio.wait_for(act(wire, f"EVIL{number}"), max(0.1, min(30.0, until - time.monotonic())))
            finally:
                wire[1].close()
        await asyncio.sleep(0.05)


async def attack(port: int, seconds: float, count: int) -> Counter[str]:
    """Keep `count` hostile connections going."""
    made: Counter[str] = Counter()
    until = time.monotonic() + seconds
    await asyncio.gather(*(attacker(number, port, until, made) for number in range(count)))
    return made


if __name__ == "__main__":
    print(json.dumps(asyncio.run(attack(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))))
