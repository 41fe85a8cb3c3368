"""Who may come in, as what: AE title ↔ address ↔ certificate, by the settings. Pure but for the free space it asks.

| calling AE title             | address   | certificate                                | may                          |
|------------------------------|-----------|--------------------------------------------|------------------------------|
| listed, with a fingerprint   | of `hosts`| that one, over TLS                         | store, notify, verify        |
| listed, without              | of `hosts`| none asked (over TLS: one of the CA)       | store, notify, verify        |
| listed                       | others, or another certificate |                       | nothing (but as below)       |
| unlisted, accepted by `unknown_sources` | any | as above                              | store, notify, verify        |
| of a destination             | any       | as above                                   | verify, report commitment;   |
|                              |           |                                            | listed only from its `host`  |
| our own                      | this host | as above                                   | verify                       |

HTTP has no AE titles: `recognise` finds the source by its certificate, else by its address.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from appliance.settings import Settings, Source
from dicom_nodes.contexts import Service

# (result, source, diagnostic) of A-ASSOCIATE-RJ, PS3.8 Table 9-21
CALLED_AE_UNKNOWN = (1, 1, 7)
CALLING_AE_UNKNOWN = (1, 1, 3)
NOT_IN_CLEAR = (1, 2, 1)  # a secret without TLS
VERSION_UNSUPPORTED = (1, 2, 2)
LOCAL_LIMIT = (2, 3, 2)

STOW_TITLE = "STOW"  # of those who store by HTTP and are not one listed source

EVERYTHING = frozenset({
    Service.VERIFICATION, Service.STORAGE, Service.COMMITMENT, Service.PROCEDURE_STEP, Service.AVAILABILITY,
})  # fmt: skip
REPORTS = frozenset({Service.VERIFICATION, Service.COMMITMENT})
ECHO = frozenset({Service.VERIFICATION})


@dataclass(frozen=True)
class Caller:
    """Who knocks: what an A-ASSOCIATE-RQ and its connection say."""

    called: str
    calling: str
    address: str
    fingerprint: str = ""  # sha256:… of its certificate; empty without TLS
    local: str = ""  # our own address on this connection


@dataclass(frozen=True)
class Verdict:
    """`services` it may use; none: `rejection` and `reason` say why. `listed`: a known source."""

    services: frozenset[Service] = frozenset()
    listed: bool = False
    rejection: tuple[int, int, int] = CALLING_AE_UNKNOWN
    reason: str = ""


@dataclass(frozen=True)
class Recognised:
    """Who stores by HTTP: one listed source, several that share the address, or a stranger. `problem`: it may not."""

    ae_title: str
    listed: bool
    problem: str


class Admission:
    """The table above, for the settings of this receiver."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._networks = [
            ipaddress.ip_network(one, strict=False) for source in settings.sources for one in source.hosts
        ]
        self._destination_addresses: set[tuple[str, str]] = set()

    def resolve(self) -> None:
        """Look up where the destinations are; may take a while, so it is asked for now and then, never by a peer."""
        found = set()
        for one in self.settings.destinations:
            with suppress(OSError, UnicodeError):
                for *_, place in socket.getaddrinfo(one.host, None, type=socket.SOCK_STREAM):
                    found.add((one.ae_title or "", str(place[0])))
        self._destination_addresses = found

    def judge(self, caller: Caller) -> Verdict:
        """Return what a caller may do."""
        place = self.settings.receiver
        if caller.called != place.ae_title:
            return Verdict(rejection=CALLED_AE_UNKNOWN, reason="another AE title was called")
        named = [one for one in self.settings.sources if one.ae_title == caller.calling]
        problems = [_problem(one, caller) for one in named]
        if not all(problems):
            return Verdict(EVERYTHING, listed=True)
        if self.is_destination(caller.calling):
            return Verdict(REPORTS, listed=(caller.calling, caller.address) in self._destination_addresses)
        if caller.calling == place.ae_title and _is_this_host(caller):
            return Verdict(ECHO, listed=True)
        if problems:
            return Verdict(reason=problems[0])
        if place.unknown_sources == "accept":
            return Verdict(EVERYTHING)
        return Verdict(reason="unknown source")

    def recognise(self, address: str, fingerprint: str) -> Recognised:
        """Return who stores by HTTP. A source without `hosts` and without a certificate cannot be told there."""
        sources = self.settings.sources
        bound = [one for one in sources if one.fingerprint and one.fingerprint == fingerprint]
        if bound:
            caller = Caller("", bound[0].ae_title, address, fingerprint)
            found = [one for one in bound if not _problem(one, caller)]
            problem = "" if found else "a source's certificate from another address"
        else:
            near = [one for one in sources if any(_within(address, host) for host in one.hosts)]
            found = [one for one in near if not one.fingerprint]
            unknown = "unknown source" if not near else "a source with a certificate came without it"
            problem = "" if found or self.settings.receiver.unknown_sources == "accept" else unknown
        titles = {one.ae_title for one in found}
        return Recognised(titles.pop() if len(titles) == 1 else STOW_TITLE, listed=bool(found), problem=problem)

    def is_destination(self, calling: str) -> bool:
        """Return whether results go to this AE title."""
        return any(one.ae_title == calling for one in self.settings.destinations)

    def is_listed_address(self, address: str) -> bool:
        """Return whether a listed source, which names its addresses, may call from here."""
        peer = ipaddress.ip_address(address)
        return any(peer in network for network in self._networks)


def entry_of(ae_title: str, host: str) -> str:
    """Return what to add to the settings so that an AE title may send from `host`, one of our own addresses."""
    address = host
    with suppress(OSError, UnicodeError):
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    return f'[[sources]] with ae_title = "{ae_title}" and hosts = ["{address}"]'


def _is_this_host(caller: Caller) -> bool:
    return caller.address == caller.local or ipaddress.ip_address(caller.address).is_loopback


def _problem(source: Source, caller: Caller) -> str:
    """Return why a caller is not the source whose AE title it uses, or nothing."""
    if source.hosts and not any(_within(caller.address, one) for one in source.hosts):
        return "a source's AE title from another address"
    if source.fingerprint and not caller.fingerprint:
        return "a source with a certificate came without TLS"
    if source.fingerprint and caller.fingerprint != source.fingerprint:
        return "a source's AE title with another certificate"
    return ""


@lru_cache(maxsize=1024)
def _within(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
