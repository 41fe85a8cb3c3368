"""Our Storage SCP as processes: one parent binds and forks; one child indexes, the others accept and acknowledge.

The accepting children tell the indexing one over a datagram socket what they kept, after they acknowledged it. What a
dead child did not tell is found by a scan of the spool. No child waits for another one on the way to 0x0000.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import CurieError, Missing, SettingsError
from appliance.family import Family, Member
from appliance.log import logger, start_logging
from appliance.process import running
from appliance.settings import Settings, Tls
from dicom_nodes.acceptor import Acceptor
from dicom_nodes.arrivals import Arrival, decode_arrival, encode_arrival
from dicom_nodes.indexer import Indexer
from dicom_nodes.lobby import BACKLOG
from dicom_nodes.places import Limits, Places
from dicom_nodes.spool import Spool

if TYPE_CHECKING:
    from dicom_nodes.stow_door import StowDoor

LONGEST_DATAGRAM = 65536  # bytes
MOST_TOLD = 100  # arrivals in one datagram; the longest are 300 bytes, or name up to 64 associations
LINGER_S = 0.02  # how long arrivals are gathered
OVER, RESCAN = b"over", b"rescan"  # datagrams that are no arrivals
FEED_BUFFER = 4 * 1024 * 1024  # bytes that may wait for the indexer in the socket
MOST_MEMORY = 8 * 1024**3  # bytes that the indexing child may map
M_ARENA_MAX = -8  # of glibc's mallopt
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"  # of TLS 1.2 (PS3.15 Annex B.12: BCP 195)

Listener = tuple[socket.socket, ssl.SSLContext | None]


def listen(settings: Settings) -> list[Listener]:
    """Return the bound sockets: DICOM, and DICOM over TLS where the settings say so. Raises Missing, SettingsError."""
    place = settings.receiver
    doors: list[Listener] = [(_bind(place.host, place.port, "receiver.port"), None)]
    if place.tls is not None:
        doors.append((_bind(place.host, place.tls.port, "receiver.tls.port"), tls_context(place.tls)))
    return doors


def listen_for_stow(settings: Settings) -> list[Listener]:
    """Return the bound socket of STOW-RS where the settings ask for it. Raises Missing, SettingsError."""
    place = settings.receiver
    if not place.stow:
        return []
    tls = tls_context(place.tls) if place.tls is not None else None
    return [(_bind(place.host, place.stow_port, "receiver.stow_port"), tls)]


def _bind(host: str, port: int, key: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Missing(f"cannot listen on {host} port {port}: {error.strerror}; free the port or change {key}") from None
    return listener


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return TLS 1.2 or 1.3 with certificates on both sides. Raises SettingsError, with the file that is not there."""
    for name in ("certificate", "key", "ca"):
        _require(name, getattr(tls, name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        cause = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise SettingsError(
            f"receiver.tls: certificate, key or ca cannot be used: {cause}; `curie tls csr` makes a key and a request"
        ) from None
    return context


def _require(name: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise SettingsError(
            f"receiver.tls.{name}: {file} cannot be read: {error.strerror}; `curie tls csr` makes a key and a request"
        ) from None


def run_receiver(settings: Settings, explain: Callable[[CurieError], int]) -> int:
    """Receive until told to stop; returns the exit code. Raises Missing or SettingsError before anything is forked."""
    start_logging("receiver")
    spool = Spool(settings.spool_dir, settings.spool.reserve_gb)
    lock = spool.claim()
    spool.prepare()
    doors = listen(settings)
    second_doors = listen_for_stow(settings)
    place = settings.receiver
    places = Places(
        Limits(place.max_associations, place.max_associations_per_source, place.max_associations_per_address)
    )
    feed, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tell.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FEED_BUFFER)
    parent = os.getpid()
    members = [Member("receiver-indexer", lambda: index(settings, spool, feed, parent))]
    for number in range(1, place.processes + 1):
        name = f"receiver-{number}"
        stow = second_doors if number == 1 else []
        body = partial(accept, name, settings, spool, places, doors, tell, stow)
        members.append(Member(name, body))

    def died(one: Member) -> None:
        places.forget(one.pid)
        _say(tell, RESCAN)

    def ask_to_end(one: Member) -> None:
        if one is members[0]:
            _say(tell, OVER)
        else:
            os.kill(one.pid, signal.SIGTERM)

    code = Family(members, explain, died, ask_to_end).run()
    lock.close()
    return code


def _say(tell: socket.socket, word: bytes) -> None:
    """Say one word to the indexing child; one that does not listen scans when it starts again, or is killed."""
    with suppress(BlockingIOError):
        tell.send(word, socket.MSG_DONTWAIT)


def index(settings: Settings, spool: Spool, feed: socket.socket, parent: int) -> None:
    """Be the indexing child: batch what is told into rows, and speak for the receiver in `curie status`."""
    _end_with_any_thread()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # a file may be made to need more
    told: list[Callable[[], float]] = []  # what says how far behind we are
    detail = lambda: {"behind_s": round(max((ask() for ask in told), default=0.0), 1)}  # noqa: E731
    os.nice(5)  # receiving comes first
    with running("receiver-indexer", settings, detail, speaks_for=("receiver", parent)) as process:
        for number in (signal.SIGTERM, signal.SIGINT):  # it ends when the accepting children have told all
            signal.signal(number, signal.SIG_IGN)
        indexer = Indexer(process.catalogue, spool)
        told.append(indexer.behind_s)
        indexer.start()
        began = time.monotonic()
        told.append(lambda: time.monotonic() - began)  # what is being adopted waits, too
        _adopt(indexer)
        told.pop()
        while (datagram := feed.recv(LONGEST_DATAGRAM)) != OVER:
            if datagram == RESCAN:
                _adopt(indexer)
            else:
                for line in datagram.splitlines():
                    indexer.put(decode_arrival(line))
        indexer.close()


def _adopt(indexer: Indexer) -> None:
    adopted = indexer.adopt()
    if adopted:
        logger().info("files_adopted", count=adopted)


def accept(
    name: str,
    settings: Settings,
    spool: Spool,
    places: Places,
    doors: Sequence[Listener],
    tell: socket.socket,
    stow: Sequence[Listener] = (),
) -> None:
    """Be an accepting child, of `stow` by HTTP."""
    _end_with_any_thread()
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)  # else every thread keeps free memory to itself
    spool.hold_folders()
    teller = Teller(tell)
    acceptor = Acceptor(settings, spool, places, teller.put)
    detail = lambda: {"refused": dict(acceptor.refused), "ended": dict(acceptor.ended)}  # noqa: E731
    with running(name, settings, detail) as process:
        acceptor.start(doors)
        second = [_open_stow(acceptor, listener, tls) for listener, tls in stow]
        process.stop.wait()
        for door in second:
            door.stop()
        acceptor.stop()
        teller.close()


def _open_stow(acceptor: Acceptor, listener: socket.socket, tls: ssl.SSLContext | None) -> StowDoor:
    from dicom_nodes.stow_door import StowDoor  # brings an HTTP server: only where it is wanted

    door = StowDoor(acceptor, listener, tls)
    door.start()
    return door


def _end_with_any_thread() -> None:
    """Let a thread that fails take the process along: the parent starts another one, half a process helps nobody."""

    def failed(what: threading.ExceptHookArgs) -> None:
        logger().error("thread_failed", cause=what.exc_type.__name__)
        os._exit(1)

    threading.excepthook = failed


class Teller:
    """Hands arrivals to the indexing child without ever making an association wait."""

    def __init__(self, tell: socket.socket) -> None:
        self._tell = tell
        self._arrivals: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, arrival: Arrival) -> None:
        """Hand one arrival over; returns at once."""
        self._arrivals.put(arrival)

    def _run(self) -> None:
        going = True
        while going:
            batch = [self._arrivals.get()]
            if batch[0] is not None:
                time.sleep(LINGER_S)  # waking up for each one would cost the associations their time
            while len(batch) < MOST_TOLD and not self._arrivals.empty():
                batch.append(self._arrivals.get())
            going = None not in batch
            lines = b"".join(encode_arrival(one) for one in batch if one is not None)
            if lines:
                self._tell.send(lines)

    def close(self) -> None:
        """Tell what was put so far, then end."""
        self._arrivals.put(None)
        self._thread.join(timeout=5)
