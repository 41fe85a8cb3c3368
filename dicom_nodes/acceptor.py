"""One accepting process's work: from a whole A-ASSOCIATE-RQ to a thread that serves the association.

Associations are judged before they are decoded, and have a place before they have a thread.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from appliance.log import logger
from appliance.settings import Settings
from dicom_nodes import pdu
from dicom_nodes.admission import LOCAL_LIMIT, NOT_IN_CLEAR, VERSION_UNSUPPORTED, Admission, Caller, Verdict
from dicom_nodes.arrivals import Arrival, AssociationEnded, AssociationOpened, AssociationsAlive
from dicom_nodes.connection import close, farewell, prepare
from dicom_nodes.contexts import ACCEPTED, Service, answer_context, answer_roles
from dicom_nodes.dimse import Association, End
from dicom_nodes.lobby import Lobby
from dicom_nodes.places import Place, Places
from dicom_nodes.services import Accepted, Limits, Peer, Services
from dicom_nodes.spool import GIB, Spool

ALIVE_S = 5.0  # between two signs of life of the open associations
MOST_IDS = 64  # in one sign
LOG_AGAIN_S, MOST_LOGGED = 60.0, 1000  # refusals of one reason and address are logged once a minute
FAREWELL_S = 5.0  # for open associations to end when told to stop
SECRETS = frozenset({2, 3, 4, 5})  # user identity types that carry a secret (PS3.7 Table D.3-14)


class Acceptor:
    """Accepts at the given listening sockets until stopped."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        places: Places,
        put: Callable[[Arrival], None],
    ) -> None:
        self.settings = settings
        self.spool = spool
        self.places = places
        self.put = put
        self.admission = Admission(settings)
        self.admission.resolve()
        self.refused: dict[str, int] = {}
        self.ended: dict[str, int] = {}  # associations and requests that were accepted, by how they ended
        self.stop_event = threading.Event()
        place = settings.receiver
        self.limits = Limits(int(place.max_instance_gb * GIB), int(place.max_association_gb * GIB))
        self._open: dict[str, threading.Thread] = {}
        self._peers: dict[str, Peer] = {}  # of associations that were accepted
        self._logged: dict[tuple[str, str], float] = {}  # refusals by reason and address: when last
        self._lock = threading.Lock()
        self._decoding = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, listeners: Sequence[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        """Serve the listening sockets, each with a thread of its own."""
        for listener, tls in listeners:
            lobby = Lobby(listener, tls, self._admit, self._may_wait, self.count)
            self._spawn(lobby.run, self.stop_event)
        self._spawn(self._say_alive)

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Stop accepting; open associations are asked for release between messages, and end within seconds."""
        self.stop_event.set()
        for thread in self._threads:
            thread.join(timeout=2)
        for thread in self._serving():
            thread.join(timeout=FAREWELL_S / max(1, len(self._open)))

    def _serving(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._open.values())

    def count(self, reason: str) -> None:
        """Count a refusal by its reason."""
        with self._lock:
            self.refused[reason] = self.refused.get(reason, 0) + 1

    def count_end(self, how: str) -> None:
        """Count an association, or a request by HTTP, that came to its end."""
        with self._lock:
            self.ended[how] = self.ended.get(how, 0) + 1

    def _say_alive(self) -> None:
        while not self.stop_event.wait(ALIVE_S):
            with self._lock:
                peers = list(self._peers.values())
            ids = tuple(peer.id for peer in peers)
            for peer in peers:  # an indexer that began anew may not know them
                self.put(AssociationOpened(peer.id, peer.ae_title, peer.address))
            for at in range(0, len(ids), MOST_IDS):
                self.put(AssociationsAlive(ids[at : at + MOST_IDS]))
            self._forget_what_was_logged()
            self.admission.resolve()

    # --- in the lobby's thread: quick, nothing that waits ---

    def _may_wait(self, address: str, waiting: int) -> bool:
        few = waiting < self.settings.receiver.max_associations_per_address
        return few or self.admission.is_listed_address(address)

    def _admit(self, connection: Any, address: str, request: bytes) -> bytes | None:
        called, calling = pdu.titles(request)
        local = str(connection.getsockname()[0]).removeprefix("::ffff:")
        verdict = self.admission.judge(Caller(called, calling, address, fingerprint(connection), local))
        rejection, reason = verdict.rejection, verdict.reason
        if verdict.services:
            place = self._place(calling, address, verdict)
            if isinstance(place, Place):
                self._open_thread(connection, Peer(str(uuid.uuid4()), calling, address), request, verdict, place)
                return None
            rejection, reason = LOCAL_LIMIT, place
        self.tell_refused(reason, address)
        return pdu.encode_reject(*rejection)

    def _open_thread(self, connection: Any, peer: Peer, request: bytes, verdict: Verdict, place: Place) -> None:
        arguments = (connection, peer, [request], verdict, place)
        thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
        with self._lock:
            self._open[peer.id] = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads on this host
            with self._lock:
                del self._open[peer.id]
            place.leave()
            raise pdu.BadPDU("no thread could be started", pdu.NOT_SPECIFIED) from None

    def _place(self, calling: str, address: str, verdict: Verdict) -> Place | str:
        """Return a place or why there is none; a study is not begun that the disk cannot take."""
        stores = Service.STORAGE in verdict.services and not self.admission.is_destination(calling)
        if stores and self.spool.is_low():
            return "free space is below spool.reserve_gb"
        return self.places.take(calling, address, verdict.listed)

    def tell_refused(self, reason: str, address: str) -> None:
        """Count a refusal, and log it if it is news."""
        self.count(reason)
        if self._is_news(reason, address):
            logger().warning("association_refused", reason=reason, address=address)

    def _is_news(self, reason: str, address: str) -> bool:
        """Return whether to log a refusal: one a minute of a kind, so that no peer can fill a disk with lines."""
        with self._lock:
            if (reason, address) in self._logged or len(self._logged) > MOST_LOGGED:
                return False
            self._logged[reason, address] = time.monotonic()
            return True

    def _forget_what_was_logged(self) -> None:
        before = time.monotonic() - LOG_AGAIN_S
        with self._lock:
            self._logged = {kind: at for kind, at in self._logged.items() if at > before}

    # --- in the association's own thread ---

    def _serve(self, connection: Any, peer: Peer, request: list[bytes], verdict: Verdict, place: Place) -> None:
        end, opened = End("failed", ours=True), False
        try:
            prepare(connection)
            association = self._negotiate(connection, peer, request.pop(), verdict)  # up to 256 KiB, not kept
            if association is not None:
                self.put(AssociationOpened(peer.id, peer.ae_title, peer.address))
                self._peers[peer.id] = peer
                opened = True
                end = association.run(place, self.stop_event)
        except Exception as error:  # noqa: BLE001 - the edge of this thread: no association may take another along
            logger().error("association_failed", cause=type(error).__name__)
        finally:
            if opened:
                self._tell_end(peer, end)
            close(connection) if end.awaited else farewell(connection)
            place.leave()
            with self._lock:
                del self._open[peer.id]

    def _tell_end(self, peer: Peer, end: End) -> None:
        with self._lock:
            del self._peers[peer.id]
        self.count_end("released" if end.released else "ended by us" if end.ours else "broken by the peer")
        self.put(AssociationEnded(peer.id, aborted=not end.released))
        if end.ours:
            self.count(end.how)
        if not end.released and self._is_news(end.how, peer.address):
            logger().warning("association_broken", reason=end.how, source=peer.ae_title, address=peer.address)

    def _negotiate(self, connection: Any, peer: Peer, raw: bytes, verdict: Verdict) -> Association | None:
        """Answer the A-ASSOCIATE-RQ; returns nothing when there is no association."""
        try:
            with self._decoding:  # one at a time: what a hostile request costs is spent once, not by every thread
                request = pdu.decode_request(raw)
        except pdu.VersionUnknown as bad:
            self._turn_down(connection, pdu.encode_reject(*VERSION_UNSUPPORTED), str(bad), peer)
            return None
        except pdu.BadPDU as bad:
            self._turn_down(connection, pdu.encode_abort(bad.reason), str(bad), peer)
            return None
        private = isinstance(connection, ssl.SSLSocket)
        if request.identity_type in SECRETS and not private:
            reason = "a user identity with a secret outside TLS"
            self._turn_down(connection, pdu.encode_reject(*NOT_IN_CLEAR), reason, peer)
            return None
        answers = [answer_context(one, verdict.services.__contains__) for one in request.contexts]
        granted = {one.id: one.transfer_syntax for one in answers if one.result == ACCEPTED}
        proposed = [one for one in request.contexts if one.id in granted]
        identity = private and request.identity_type != 0 and request.identity_response
        connection.sendall(
            pdu.encode_accept(request, raw[4:68], answers, answer_roles(request.roles, proposed), identity)
        )
        accepted = {one.id: Accepted(one.abstract_syntax, granted[one.id]) for one in proposed}
        services = Services(self.spool, peer, self.limits, self.put, self.count)
        return Association(connection, accepted, services, request.maximum_length)

    def _turn_down(self, connection: Any, answer: bytes, reason: str, peer: Peer) -> None:
        self.tell_refused(reason, peer.address)
        try:
            connection.sendall(answer)
        except OSError:
            return


def fingerprint(connection: Any) -> str:
    """Return `sha256:` and the hexadecimal digest of the peer's certificate, or nothing without TLS."""
    if not isinstance(connection, ssl.SSLSocket | ssl.SSLObject):
        return ""
    certificate = connection.getpeercert(binary_form=True)
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}" if certificate else ""
