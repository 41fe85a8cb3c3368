"""The page to hand to the PACS team: what to set up on their side, and how both try it. Markdown, from the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance import __version__
from appliance.settings import Destination, Settings
from dicom_nodes.conformance import named, storage_classes
from dicom_nodes.conformance_objects import table
from dicom_nodes.contexts import EXPLICIT_LE, IMPLICIT_LE
from dicom_nodes.result_classes import BY_ROLE

USUAL = (  # what a hospital's modalities mostly send; all others are taken too
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.6.1",
)  # fmt: skip
UNLISTED = {"accept": "Any AE title may send.", "refuse": "Nobody may send yet: which AE title will? ____________"}


def request_form(settings: Settings) -> str:
    """Return the page for the running configuration."""
    parts = (_head(settings), _inward(settings), _outward(settings), _network(settings), _plan(settings))
    return "\n\n".join(parts) + "\n"


def _head(settings: Settings) -> str:
    own = settings.federation
    kept = f", the images of labelled training cases for up to {own.keep_cases_days} days" if own else ""
    return (
        f"# Request to the PACS team: Petite Curie {__version__}, {settings.appliance.name}\n\n"
        "An appliance that reads studies and returns segmentations and structured reports. It changes no image, and "
        "holds none longer than "
        f"{settings.spool.keep_days:g} days{kept}. The full DICOM conformance statement: `curie conformance`."
    )


def _inward(settings: Settings) -> str:
    place = settings.receiver
    rows: list[tuple[object, ...]] = [("AE title", place.ae_title), ("port", place.port)]
    if place.tls:
        rows.append(("port with TLS", place.tls.port))
    rows += [
        ("host", "________________ (address of the appliance)"),
        ("storage classes", f"{', '.join(named(uid) for uid in USUAL)}; {len(storage_classes())} in all"),
        ("transfer syntaxes", "every one as it is stored, deflated ones apart; please do not recompress"),
    ]
    senders = [(one.ae_title, ", ".join(map(str, one.hosts)) or "any address") for one in settings.sources]
    listed = table(("AE title that may send", "from"), senders) if senders else UNLISTED[place.unknown_sources]
    parts = [f"{table(('', ''), rows)}\n\n{listed}", *_asked_back(settings)]
    rules = [(one.name, _match(one.match)) for one in settings.routes]
    return (
        "## 1 Please forward studies to it\n\n" + "\n\n".join(parts) + "\n\n"
        "Forward whole studies as they are stored, results of the appliance itself included (it knows them).\n\n"
        f"{table(('What is read', 'where'), rules)}"
    )


def _asked_back(settings: Settings) -> Iterator[str]:
    """Say what a source must allow so that studies which never came can be fetched (`curie catch-up`)."""
    asked = [one for one in settings.sources if one.host and one.port]
    for one in asked:
        yield (
            f"{one.ae_title} ({one.host}:{one.port}): please let {settings.sender.ae_title} ask it by C-FIND, and "
            f"fetch by C-MOVE with {settings.receiver.ae_title} as move destination (to be known there with its host "
            f"and port {settings.receiver.port}), or by C-GET. This is for studies that never came; nothing else is "
            "fetched."
        )


def _match(match: Mapping[str, object]) -> str:
    words = (
        f"{keyword} is {' or '.join(value) if isinstance(value, tuple | list) else value}"
        for keyword, value in match.items()
    )
    return "; ".join(words) or "every study that suits the package"


def _outward(settings: Settings) -> str:
    parts = ["## 2 Please take its results"]
    for one in settings.destinations:
        parts.append(f"### {one.name}\n\n{table(('', ''), _asked(one, settings))}")
    if not settings.destinations:
        parts.append("No destination is set yet.")
    return "\n\n".join(parts)


def _asked(one: Destination, settings: Settings) -> Iterator[tuple[object, ...]]:
    yield ("results are sent to", one.url or f"{one.ae_title}, {one.host}:{one.port}")
    yield ("calling AE title", settings.sender.ae_title)
    yield ("SOP classes", "; ".join(f"{named(BY_ROLE[role])} ({BY_ROLE[role]})" for role in one.results))
    yield ("transfer syntaxes", f"{named(EXPLICIT_LE)}, {named(IMPLICIT_LE)}")
    if one.commits:
        back = "the report may come in an association of its own"
        yield ("Storage Commitment Push Model", f"N-ACTION to you, N-EVENT-REPORT to us: {back}")
    if one.find:
        yield ("Study Root Query/Retrieve FIND", "counts and patient of a study, at most some a minute")
    if one.notify:
        yield ("Instance Availability Notification", "once the results of a study are there")


def _network(settings: Settings) -> str:
    place = settings.receiver
    ports = f"{place.port}/tcp" + (f", {place.tls.port}/tcp with TLS" if place.tls else "")
    rows: list[tuple[object, ...]] = []
    for source in settings.sources:
        where = ", ".join(source.hosts) or "any address"
        rows.append((f"{source.ae_title} ({where})", "appliance", ports, "images"))
        if source.host and source.port:
            to = f"{source.ae_title} ({source.host})"
            rows.append(("appliance", to, f"{source.port}/tcp", "questions for studies that never came"))
    if not settings.sources:
        rows.append(("PACS", "appliance", ports, "images"))
    for one in settings.destinations:
        to = f"{one.name} ({one.host})" if one.host else one.name
        rows.append(("appliance", to, one.url or f"{one.port}/tcp", "results"))
        if one.commits:
            rows.append((to, "appliance", ports, "reports of commitment"))
    if settings.federation:
        rows.append(("appliance", settings.federation.target, "TLS", "changes of weights; no image, no name"))
    return f"## 3 Firewall\n\n{table(('from', 'to', 'port', 'what'), rows)}"


def _plan(settings: Settings) -> str:
    rehearsed = [
        (f"`curie rehearse {one.name}` on the appliance", "every line says ok; delete CURIE-REHEARSAL there", "")
        for one in settings.destinations
    ]
    steps = [
        ("C-ECHO from the PACS to the appliance", "success", ""),
        ("`curie destinations test` on the appliance", "every line says ok", ""),
        ("`curie doctor` on the appliance", "every line says ok", ""),
        *rehearsed,
        ("one test patient's study, forwarded by hand", "`curie explain ACCESSION` names it within a minute", ""),
        ("its results in the viewer", "segmentation lies on the images, report opens", ""),
        ("the rule for automatic forwarding", "the next study appears in `curie status`", ""),
    ]
    who = "PACS team: ________________  date: __________  appliance: ________________  date: __________"
    return f"## 4 Test plan\n\n{table(('step', 'expected', 'seen'), steps)}\n\n{who}"
