"""A storage SCU whose messages are encoded before the clock starts: sockets and bytes, nothing else on the data path.

`python -m bench.replayer` prepares, prints a line, waits for one on stdin, sends, and prints its report as JSON; so
its CPU stands apart from the receiver's. It must never be the slower end: DCMTK's storescu tops out at 400 CT a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import pdus
from bench.datasets import Instance, instances
from bench.pdus import Broken, Buffer

PATIENCE_S = 300  # for one response: 300 MB may take long to sync on a busy disk
OPEN_S = 30  # until every association is open
VECTOR = 512  # buffers in one sendmsg; Linux allows 1024


@dataclass(frozen=True)
class Place:
    """Whom to call."""

    port: int
    called: str = "ANY-SCP"
    calling: str = "BENCH"
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Report:
    """What one replay took: from the first request to the last response, the associations being open."""

    count: int
    bytes: int  # of datasets
    wall_s: float
    p50_ms: float
    p95_ms: float
    sender_cpu_s: float
    peers_maximum_pdu: int


@dataclass(frozen=True)
class Message:
    """One C-STORE as it goes over the wire."""

    id: int
    uid: str
    pieces: list[Buffer]
    length: int


class Association:
    """One open association with one presentation context."""

    def __init__(self, place: Place, sop_class: str, syntax: str = pdus.EXPLICIT_LE) -> None:
        self.socket = socket.create_connection((place.host, place.port), timeout=OPEN_S)
        self.socket.settimeout(None)  # a timeout of Python's would make it non-blocking: many short sends
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._wait_at_most(OPEN_S)
            self.socket.sendall(pdus.associate_rq(place.called, place.calling, sop_class, (syntax,)))
            self.maximum = pdus.peers_maximum(*pdus.read_pdu(self.socket))
            self._wait_at_most(PATIENCE_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, released or not."""
        self.socket.close()

    def _wait_at_most(self, seconds: int) -> None:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))

    def exchange(self, message: Message) -> int:
        """Send one message and return the status of its response."""
        for at in range(0, len(message.pieces), VECTOR):
            self._send(message.pieces[at : at + VECTOR])
        return pdus.read_status(self.socket, message.id)

    def _send(self, pieces: list[Buffer]) -> None:
        sent = self.socket.sendmsg(pieces)
        rest = sum(map(len, pieces)) - sent
        if rest:
            self.socket.sendall(b"".join(pieces)[-rest:])

    def release(self) -> None:
        """Ask for release, read the answer, close."""
        self.socket.sendall(pdus.pdu(pdus.RELEASE_RQ, bytes(4)))
        kind, _ = pdus.read_pdu(self.socket)
        self.close()
        if kind != pdus.RELEASE_RP:
            raise Broken(f"PDU type {kind} instead of A-RELEASE-RP")


def echo(place: Place) -> None:
    """Verify the peer by C-ECHO. Raises OSError or Broken."""
    association = Association(place, pdus.VERIFICATION, pdus.IMPLICIT_LE)
    try:
        status = association.exchange(Message(1, "", [pdus.echo_rq()], 0))
        association.release()
    finally:
        association.close()
    if status != 0:
        raise Broken(f"C-ECHO was answered 0x{status:04X}")


def encode(chosen: Sequence[Instance], maximum: int) -> list[Message]:
    """Return the messages of some instances for a peer with this maximum PDU length; pixels are not copied."""
    return [_message(one, number % 65535 + 1, maximum) for number, one in enumerate(chosen)]


def _message(one: Instance, id: int, maximum: int) -> Message:
    command: list[Buffer] = [pdus.store_rq(one.sop_class_uid, one.sop_instance_uid, id)]
    pieces = command + pdus.data_pieces([one.head, one.pixels], maximum)
    return Message(id, one.sop_instance_uid, pieces, one.size)


class Replay:
    """The messages of one run and the threads that send them: whichever association is free takes the next."""

    def __init__(self, place: Place, chosen: Sequence[Instance], connections: int) -> None:
        self.associations: list[Association] = []
        self.acknowledged: list[str] = []  # SOP Instance UIDs answered by 0x0000, whatever came after
        self.failures: list[str] = []
        self.latencies: list[float] = []  # seconds from request to answer, of each that was answered
        self._next = itertools.count()
        try:
            for number in range(1, connections + 1):
                self.associations.append(_open(place, chosen[0].sop_class_uid, f"{number} of {connections}"))
        except BaseException:
            self.close()
            raise
        self.messages = encode(chosen, self.associations[0].maximum)

    def close(self) -> None:
        """Close all connections, released or not."""
        for association in self.associations:
            association.close()

    def run(self) -> Report:
        """Send everything and release. Raises Broken naming the first failure."""
        threads = [threading.Thread(target=self._sender, args=(one,)) for one in self.associations]
        cpu, started = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        try:
            if self.failures:
                raise Broken(f"{len(self.failures)} of {len(self.messages)} not stored; the first: {self.failures[0]}")
            for association in self.associations:
                association.release()
        finally:
            self.close()
        return self._report(wall, cpu)

    def _sender(self, association: Association) -> None:
        while (at := next(self._next)) < len(self.messages):
            message = self.messages[at]
            started = time.perf_counter()
            try:
                status = association.exchange(message)
            except (OSError, Broken) as error:
                self.failures.append(f"{message.uid}: {error}")
                return
            self.latencies.append(time.perf_counter() - started)
            if status == 0:
                self.acknowledged.append(message.uid)
            else:
                self.failures.append(f"{message.uid}: status 0x{status:04X}")

    def _report(self, wall: float, cpu: float) -> Report:
        ms = [1000 * one for one in self.latencies]
        p95 = statistics.quantiles(ms, n=20, method="inclusive")[-1] if len(ms) > 1 else ms[0]
        size = sum(message.length for message in self.messages)
        p50, maximum = statistics.median(ms), self.associations[0].maximum
        return Report(len(ms), size, round(wall, 4), round(p50, 3), round(p95, 3), round(cpu, 4), maximum)


def _open(place: Place, sop_class: str, which: str) -> Association:
    try:
        return Association(place, sop_class)
    except (OSError, Broken) as error:
        raise Broken(f"association {which}: {error}") from None


def replay(place: Place, chosen: Sequence[Instance], connections: int = 1) -> Report:
    """Send instances of one SOP Class over some associations. Raises Broken, naming the first that was not stored."""
    return Replay(place, chosen, connections).run()


def main() -> None:
    """Prepare, wait for a line on stdin, send, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--called", default="ANY-SCP")
    parser.add_argument("--calling", default="BENCH")
    parser.add_argument("--kind", default="ct", choices=("ct", "mr", "multiframe"))
    parser.add_argument("--run", default="by hand", help="another text gives other UIDs")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--now", action="store_true", help="do not wait for a line on stdin")
    given = parser.parse_args()
    chosen = instances(given.kind, given.run, given.count)
    place = Place(given.port, given.called, given.calling, given.host)
    if not given.now:
        print("prepared", flush=True)
        sys.stdin.readline()
    try:
        print(json.dumps(asdict(replay(place, chosen, given.connections))))
    except (OSError, Broken) as error:
        sys.exit(f"{place.called} on port {place.port}: {error}")


if __name__ == "__main__":
    main()
