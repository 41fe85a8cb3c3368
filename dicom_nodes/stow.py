"""STOW-RS, the second door: HTTP requests of the Store transaction (PS3.18 Section 10.5) to answers, as ASGI.

| status | when                                                                      |
|--------|---------------------------------------------------------------------------|
| 200    | every instance is durable, as C-STORE's 0x0000                            |
| 202    | some are; the answer says which, and why not the others                   |
| 409    | none is; the answer says why                                              |
| 400    | the body is malformed or ends early: nothing is acknowledged              |
| 403    | not a source by address or certificate; said before anything else is said |
| 408    | the body stopped coming                                                   |
| 413    | beyond receiver.max_association_gb, or far beyond receiver.max_instance_gb|
| 415    | not multipart/related of application/dicom                                |
| 503    | no free space or no place; with Retry-After                               |

A request is to the catalogue what an association is. It must never answer before the disk did, never hold a body in
memory, and never repeat to a log what a peer wrote.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from appliance.log import logger
from dicom_nodes.acceptor import Acceptor
from dicom_nodes.admission import Recognised
from dicom_nodes.arrivals import AssociationEnded, AssociationOpened
from dicom_nodes.connection import CLOSE_BYTES, CLOSE_S, TICK_S
from dicom_nodes.contexts import is_uid
from dicom_nodes.multipart import Malformed, WrongMediaType, boundary_of
from dicom_nodes.places import Place
from dicom_nodes.services import Peer, Services
from dicom_nodes.store_transaction import DICOM, Outcome, StoreTransaction, TooLarge

SILENCE_S = 30.0  # without a byte of the body
RETRY_S = 30  # what Retry-After says
WRITERS = 8  # threads that write and sync; the loop itself never waits for a disk
PATH = re.compile(r"(?:/dicom-web)?/studies(?:/([^/]*))?/?")

# attributes of the Store Instances Response (PS3.18 Table I.2-1)
FAILED_SOPS, REFERENCED_SOPS, OTHER_FAILURES = "00081198", "00081199", "0008119A"
RETRIEVE_URL, CLASS_UID, INSTANCE_UID, FAILURE_REASON = "00081190", "00081150", "00081155", "00081197"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(eq=False)
class Reply(Exception):
    """An answer; raised where it cuts a request short. `sentence` is for the requester, `cause` for our log."""

    status: int
    sentence: str = ""
    cause: str = ""
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class _Gone(Exception):
    """There is nobody to answer any more."""


class Stow:
    """The ASGI application; it shares spool, places, rules and refusals with the acceptor."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._writers = ThreadPoolExecutor(WRITERS, "stow-writer")
        self.open: dict[str, Peer] = {}  # requests that store, by id

    def close(self) -> None:
        """End the threads that write, after what they do now."""
        self._writers.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = _Body(receive)
        try:
            reply = await self._answer(scope, body)
        except Reply as cut:
            reply = cut
        except _Gone:
            self._acceptor.tell_refused("connection lost inside a request", _address(scope))
            return
        except Exception as error:  # noqa: BLE001 - the edge: no request may take the door along
            logger().error("stow_failed", cause=type(error).__name__)
            reply = Reply(500)
        finally:
            body.close()
        if reply.cause:
            self._acceptor.tell_refused(reply.cause, _address(scope))
        await _send(reply, body, send)

    async def _answer(self, scope: Message, body: _Body) -> Reply:
        who = self._who(scope)
        study, headers = _study(scope), dict(scope["headers"])
        boundary = _boundary(headers)
        announced = headers.get(b"content-length", b"0")
        if int(announced) > self._acceptor.limits.association_bytes:
            raise Reply(413, "larger than one request may be", "larger than receiver.max_association_gb")
        peer = Peer(str(uuid.uuid4()), who.ae_title, _address(scope))
        place = self._place(peer, who.listed)
        try:
            return await self._store(peer, place, boundary, study, body)
        finally:
            place.leave()

    def _who(self, scope: Message) -> Recognised:
        """Return whose request this is. Raises Reply 403, which says nothing about why."""
        who = self._acceptor.admission.recognise(_address(scope), scope["state"].get("fingerprint", ""))
        if who.problem:
            raise Reply(403, cause=who.problem)
        return who

    def _place(self, peer: Peer, listed: bool) -> Place:
        """Return the place of one request. Raises Reply 503."""
        place: Place | str = "free space is below spool.reserve_gb"
        if not self._acceptor.spool.is_low():
            place = self._acceptor.places.take(peer.ae_title, peer.address, listed)
        if isinstance(place, str):
            raise Reply(503, "no room at the moment", place, headers={"retry-after": str(RETRY_S)})
        return place

    async def _store(self, peer: Peer, place: Place, boundary: bytes, study: str, body: _Body) -> Reply:
        """Carry the transaction out, as an association to all who look at the catalogue."""
        ours = self._acceptor
        services = Services(ours.spool, peer, ours.limits, ours.put, ours.count)
        transaction, whole = StoreTransaction(services, boundary, study), False
        ours.put(AssociationOpened(peer.id, peer.ae_title, peer.address))
        self.open[peer.id] = peer
        try:
            outcome = await self._take_in(transaction, place, body)
            whole = True
            return _reply(outcome)
        except Malformed as bad:
            raise Reply(400, str(bad), str(bad)) from None
        except TooLarge as large:
            raise Reply(413, "larger than one request may be", str(large)) from None
        finally:
            transaction.close()
            del self.open[peer.id]
            ours.put(AssociationEnded(peer.id, aborted=not whole))
            ours.count_end("released" if whole else "broken by the peer")

    async def _take_in(self, transaction: StoreTransaction, place: Place, body: _Body) -> Outcome:
        loop = asyncio.get_running_loop()
        stored = 0
        while (piece := await body.piece(place)) is not None:
            await loop.run_in_executor(self._writers, transaction.feed, piece)
            if len(transaction.outcome.stored) > stored:
                stored = len(transaction.outcome.stored)
                place.heard(brought=True)
        return transaction.finish()


class _Body:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._next: asyncio.Future[Message] | None = None
        self.over = False

    async def piece(self, place: Place) -> bytes | None:
        """Return some bytes, nothing at the end. Raises Reply when it takes too long, _Gone without a peer."""
        deadline = time.monotonic() + SILENCE_S
        while not self.over:
            message = await self._wait(TICK_S)
            if message is None:
                if time.monotonic() > deadline:
                    raise Reply(408, "the body stopped coming", "silence inside a request")
                if not place.is_mine():
                    raise Reply(503, "no room at the moment", "gave its place to another", headers={"retry-after": "1"})
            elif message.get("body"):
                return bytes(message["body"])
        return None

    async def _wait(self, seconds: float) -> Message | None:
        """Return the next message, or nothing when it does not come so soon. Raises _Gone."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._receive())
        await asyncio.wait((self._next,), timeout=seconds)
        if not self._next.done():
            return None
        message, self._next = self._next.result(), None
        if message["type"] == "http.disconnect":
            raise _Gone
        self.over = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Let pass what still comes, for a moment, so that the peer reads our answer before the connection ends."""
        deadline, left = time.monotonic() + CLOSE_S, CLOSE_BYTES
        try:
            while not self.over and left > 0 and (seconds := deadline - time.monotonic()) > 0:
                message = await self._wait(seconds)
                left -= len(message.get("body", b"")) if message else 0
        except _Gone:
            self.over = True
        finally:
            self.close()

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _address(scope: Message) -> str:
    client = scope.get("client")
    return str(client[0]).removeprefix("::ffff:") if client else ""


def _study(scope: Message) -> str:
    """Return the Study Instance UID of the path, or nothing. Raises Reply 404, 405."""
    found = PATH.fullmatch(scope["path"])
    if found is None:
        raise Reply(404, "store at /studies or /studies/{study}")
    if scope["method"] != "POST":
        raise Reply(405, "only POST is served here", headers={"allow": "POST"})
    study = found[1] or ""
    if study and not is_uid(study):
        raise Reply(400, "the study of the path is no UID", "the study of the path is no UID")
    return study


def _boundary(headers: dict[bytes, bytes]) -> bytes:
    """Return the boundary of the body. Raises Reply 400, 415."""
    try:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise WrongMediaType("Content-Encoding is not supported")
        return boundary_of(headers.get(b"content-type", b"").decode("latin-1"), DICOM)
    except WrongMediaType as wrong:
        raise Reply(415, str(wrong), str(wrong)) from None
    except Malformed as bad:
        raise Reply(400, str(bad), str(bad)) from None


def _reply(outcome: Outcome) -> Reply:
    """Return the Store Instances Response (PS3.18 Section 10.5.3, Annex I.2) as DICOM JSON (Annex F)."""
    stored = [_instance(*one) for one in outcome.stored]
    failed = [{**_instance(kind, uid), **_reason(why)} for kind, uid, why in outcome.failed]
    sequences = {REFERENCED_SOPS: stored, FAILED_SOPS: failed, OTHER_FAILURES: [_reason(why) for why in outcome.others]}
    dataset: dict[str, Any] = {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}
    dataset[RETRIEVE_URL] = {"vr": "UR"}  # we do not serve WADO-RS
    content = json.dumps(dict(sorted(dataset.items())), separators=(",", ":")).encode()
    status = 409 if not stored else 202 if failed or outcome.others else 200
    return Reply(status, content=content)


def _instance(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {
        CLASS_UID: {"vr": "UI", "Value": [sop_class_uid]},
        INSTANCE_UID: {"vr": "UI", "Value": [sop_instance_uid]},
    }


def _reason(reason: int) -> dict[str, Any]:
    return {FAILURE_REASON: {"vr": "US", "Value": [reason]}}


async def _send(reply: Reply, body: _Body, send: Send) -> None:
    """Send an answer. Where the body is not over, the connection ends, but not before the answer was read."""
    content = reply.content or reply.sentence.encode()
    kind = "application/dicom+json" if reply.content else "text/plain; charset=utf-8"
    headers = {"content-type": kind, "content-length": str(len(content)), **reply.headers}
    if not body.over:
        headers["connection"] = "close"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
