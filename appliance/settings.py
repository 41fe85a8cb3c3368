"""One TOML file → frozen settings. It must never guess: an unknown key or a bad value refuses to start.

Units stand in the key (`_s`, `_gb`, `_days`). Keys whose feature is not built yet are accepted and named
by `Settings.without_effect`, so that a file written for a later version still starts.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from appliance import outward, record_settings
from appliance.errors import Missing, SettingsError
from appliance.federation_settings import Coordinator as Coordinator
from appliance.federation_settings import Federation as Federation
from appliance.outward import Destination as Destination
from appliance.outward import MessageReceiver as MessageReceiver
from appliance.outward import Worklist as Worklist
from appliance.record_settings import Alerts, Audit, Tracing
from appliance.setting_types import AETitle, BrokerAddress, Name, Oidc, Port, Seconds, Table, WebAddress

DEFAULT_FILE = "curie.toml"


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _fingerprint(value: str) -> str:
    if not value.startswith("sha256:"):
        raise ValueError("a fingerprint begins with sha256: , as `curie tls fingerprint` shows it")
    return value.strip().lower().replace(":", "").replace("sha256", "sha256:")


Network = Annotated[str, AfterValidator(_network)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
MatchValue = str | int | float | list[str | int | float] | dict[str, float | str]


class Appliance(Table):
    name: str = "curie"
    uid: str = Field(default="", max_length=64, pattern=r"^([0-9]+(\.[0-9]+)*)?$")
    data_dir: Path = Path("curie-data")


class CatalogueTable(Table):
    url: str = "sqlite:///{data_dir}/curie.db"


class Broker(Table):
    url: BrokerAddress = "embedded"


class Spool(Table):
    reserve_gb: float = Field(default=5, ge=0)
    keep_days: float = Field(default=30, gt=0, le=36500)


class Tls(Table):
    port: Port = 2762
    certificate: Path
    key: Path
    ca: Path


class Receiver(Table):
    ae_title: AETitle = "CURIE"
    host: str = "0.0.0.0"
    port: Port = 11112
    processes: int = Field(default=1, ge=1, le=64)
    unknown_sources: Literal["refuse", "accept"] = "refuse"
    max_associations: int = Field(default=64, ge=1)
    max_associations_per_source: int = Field(default=16, ge=1)
    max_associations_per_address: int = Field(default=8, ge=1)
    max_instance_gb: float = Field(default=4, gt=0)
    max_association_gb: float = Field(default=256, gt=0)
    stow: bool = False
    stow_port: Port = 8443
    tls: Tls | None = None


class Completeness(Table):
    after_release_s: Seconds = 3
    quiet_s: Seconds = 30
    force_s: Seconds = 900


class Worker(Table):
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda:\d+)$")
    count: int = Field(default=1, ge=1, le=64)
    memory_gb: float = Field(default=0, ge=0)
    backends: tuple[Literal["tensorrt", "tensorrt-rtx", "torch-cuda", "openvino", "onnxruntime", "torch"], ...] = (
        "tensorrt",
        "tensorrt-rtx",
        "torch-cuda",
        "openvino",
        "onnxruntime",
        "torch",
    )


class Sender(Table):
    ae_title: AETitle = "CURIE"


class Console(Table):
    host: str = "127.0.0.1"
    port: Port = 8480
    url: WebAddress | None = None  # by which browsers reach it through a proxy; https: cookies are Secure
    oidc: Oidc | None = None  # beside the local accounts


class Source(Table):
    ae_title: AETitle
    hosts: tuple[Network, ...] = ()  # empty: any address
    host: str | None = None
    port: Port | None = None
    fingerprint: Fingerprint | None = None


class Route(Table):
    name: Name
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*(@\d+\.\d+\.\d+)?$")
    destinations: tuple[Name, ...] = ()
    match: dict[str, MatchValue] = Field(default_factory=dict)
    priority: Literal["routine", "urgent"] = "routine"
    report_negative: bool = True
    report_failure: bool = False
    on_request: bool = False  # true: only studies that a worklist asks for
    objective_s: Seconds | None = None  # from a study's last image to its results in the PACS, for 95 of 100


class Models(Table):
    trusted_keys: tuple[Path, ...] = ()
    allow_unsigned: bool = False
    two_person_promotion: bool = False


class Settings(Table):
    """The whole file. Frozen; read once when a process starts."""

    appliance: Appliance = Appliance()
    catalogue: CatalogueTable = CatalogueTable()
    broker: Broker = Broker()
    spool: Spool = Spool()
    receiver: Receiver = Receiver()
    completeness: Completeness = Completeness()
    worker: Worker = Worker()
    sender: Sender = Sender()
    console: Console = Console()
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    routes: tuple[Route, ...] = ()
    worklists: tuple[Worklist, ...] = ()
    messages: tuple[MessageReceiver, ...] = ()
    federation: Federation | None = None
    coordinator: Coordinator | None = None
    models: Models = Models()
    alerts: Alerts = Alerts()
    audit: Audit = Audit()
    tracing: Tracing = Tracing()

    @property
    def data_dir(self) -> Path:
        """Absolute folder of all state."""
        return self.appliance.data_dir

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        return self.data_dir / "results"

    @property
    def catalogue_url(self) -> str:
        return self.catalogue.url.replace("{data_dir}", str(self.data_dir))

    @property
    def appliance_uid(self) -> str:
        """The UID that tells this appliance from others; derived from its name until `curie init` made one."""
        named = uuid.uuid5(uuid.NAMESPACE_URL, f"petite-curie:{self.appliance.name}")
        return self.appliance.uid or f"2.25.{named.int}"

    def destination(self, name: str) -> Destination:
        """Return the destination called `name`."""
        for one in self.destinations:
            if one.name == name:
                return one
        raise SettingsError(f"no destination is called {name!r}; there are: {_names(self.destinations)}")

    def impossible_fingerprints(self) -> list[str]:
        """Return the sources whose fingerprint no certificate can have: nobody can be them."""
        bound = [one for one in self.sources if one.fingerprint]
        return [one.ae_title for one in bound if not re.fullmatch(r"sha256:[0-9a-f]{64}", one.fingerprint or "")]

    def without_effect(self) -> list[str]:
        """Return the keys that are set but have no effect in this version."""
        return [f"destinations.{one.name}.{key} beside url" for one in self.destinations for key in one.unused()]


def _names(items: tuple[Any, ...]) -> str:
    return ", ".join(repr(item.name) for item in items) or "none"


def _tables(of: type[Table] = Table) -> list[type[Table]]:
    return [found for one in of.__subclasses__() for found in (one, *_tables(one))]


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    model: Any = Settings
    for part in path:
        if isinstance(part, int):
            continue
        annotation = str(model.model_fields[part].annotation)
        model = next((c for c in _tables() if f".{c.__name__}" in annotation), None)
        if model is None:
            return []
    return list(model.model_fields)


def _key(path: tuple[Any, ...], table: dict[str, Any]) -> str:
    """Return a path in the file, with the name of what stands in a list in place of its number."""
    first, *rest = path
    if rest and isinstance(rest[0], int):
        entry, own = table[first][rest[0]], "ae_title" if first == "sources" else "name"
        rest[0] = str(entry.get(own, rest[0]) if isinstance(entry, dict) else rest[0])
    return ".".join([str(first), *(one for one in rest if isinstance(one, str))])


def _sentence(error: ValidationError, table: dict[str, Any], file: Path) -> str:
    first = error.errors()[0]
    path = tuple(first["loc"])
    key = _key(path, table)
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{file}: unknown setting {key}; {hint}"
    if first["type"] == "missing":
        return f"{file}: setting {key} is needed and is not there"
    text = first["msg"].removeprefix("Value error, ")
    return f"{file}: {key} = {_quoted(first['input'])} is not allowed: {text}"


def _quoted(value: object) -> str:
    """Return a value as an error may show it: of an address with a password no more than how it begins."""
    told = repr(value)
    if "@" not in told and "password" not in told.lower():
        return told
    begins = re.match(r"'([A-Za-z0-9+.-]+):", told)
    return f"'{begins[1]}:…'" if begins else "…"


def _check_ports(settings: Settings, file: Path) -> None:
    receiver, coordinator = settings.receiver, settings.coordinator
    ours = {"receiver.port": receiver.port, "console.port": settings.console.port}
    ours |= {"receiver.tls.port": receiver.tls.port} if receiver.tls else {}
    ours |= {"receiver.stow_port": receiver.stow_port} if receiver.stow else {}
    ours |= {"coordinator.port": coordinator.port} if coordinator else {}
    taken: dict[int, str] = {}
    for key, port in ours.items():
        if port in taken:
            raise SettingsError(f"{file}: {key} = {port} is {taken[port]} too; give each a port of its own")
        taken[port] = key


def _check_references(settings: Settings, file: Path) -> None:
    _check_ports(settings, file)
    for table in ("destinations", "routes", "worklists", "messages"):
        names = [item.name for item in getattr(settings, table)]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise SettingsError(f"{file}: {table}.name = {min(twice)!r} stands there twice; names are unique")
    for one in settings.destinations:
        outward.check_destination(one, file)
    routes = [route.name for route in settings.routes]
    for worklist in settings.worklists:
        outward.check_worklist(worklist, routes, file)
    for receiver in settings.messages:
        outward.check_message_receiver(receiver, routes, file)
    for route in settings.routes:
        _check_route(route, settings, file)


def _check_route(route: Route, settings: Settings, file: Path) -> None:
    where = f"{file}: routes.{route.name}"
    known = {d.name for d in settings.destinations}
    for name in route.destinations:
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none is set"
            raise SettingsError(f"{where}.destinations = {name!r} is not a destination; allowed: {allowed}")
    for keyword, wanted in route.match.items():
        _check_match(keyword, wanted, f"{where}.match.{keyword}")
    if route.on_request and route.name not in {worklist.route for worklist in settings.worklists}:
        raise SettingsError(f"{where}.on_request = true is not allowed where no worklist names it: it would never run")


def _check_match(keyword: str, wanted: MatchValue, where: str) -> None:
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", keyword):
        raise SettingsError(f"{where}: not a DICOM keyword, such as Modality or BodyPartExamined")
    if not isinstance(wanted, dict):
        return
    unknown = set(wanted) - {"min", "max", "regex"}
    if unknown or not wanted:
        raise SettingsError(f"{where} = {wanted!r} is not allowed: keys are min, max, regex")
    if "regex" in wanted:
        try:
            re.compile(str(wanted["regex"]))
        except re.error as error:
            raise SettingsError(f"{where}.regex = {wanted['regex']!r} is not allowed: {error}") from None


def _from_folder(tls: Tls | None, folder: Path) -> Tls | None:
    if tls is None:
        return None
    paths = {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}
    return tls.model_copy(update={name: folder / path.expanduser() for name, path in paths.items()})


def _with_kit(federation: Federation | None, folder: Path) -> Federation | None:
    return federation and federation.model_copy(update={"kit": folder / federation.kit.expanduser()})


def _with_secret(console: Console, folder: Path, file: Path) -> Console:
    """Return the console with the files of its provider counted from `folder`. Raises SettingsError."""
    oidc = console.oidc
    if oidc is None:
        return console
    if console.url is None:
        raise SettingsError(f"{file}: console.oidc needs console.url: the provider sends browsers back there")
    outward.check_secrecy(oidc.issuer, oidc.client_id, oidc.ca, f"{file}: console.oidc")
    files = {"client_secret_file": folder / oidc.client_secret_file.expanduser()}
    files |= {"ca": folder / oidc.ca.expanduser()} if oidc.ca else {}
    return console.model_copy(update={"oidc": oidc.model_copy(update=files)})


def _placed_outward(settings: Settings, folder: Path) -> Settings:
    """Return the settings with the files of those outside counted from `folder`."""
    change = {
        table: tuple(one.model_copy(update=outward.placed(one, folder)) for one in getattr(settings, table))
        for table in ("destinations", "worklists", "messages")
    }
    return settings.model_copy(update=change)


def parse(text: str, file: Path) -> Settings:
    """Return the settings in `text`; relative paths count from the file's folder. Raises SettingsError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        raise SettingsError(_sentence(error, table, file)) from None
    data_dir = (file.absolute().parent / settings.appliance.data_dir.expanduser()).resolve()
    place = settings.appliance.model_copy(update={"data_dir": data_dir})
    receiver = settings.receiver.model_copy(update={"tls": _from_folder(settings.receiver.tls, file.absolute().parent)})
    keys = tuple(file.absolute().parent / path.expanduser() for path in settings.models.trusted_keys)
    models = settings.models.model_copy(update={"trusted_keys": keys})
    federation = _with_kit(settings.federation, file.absolute().parent)
    changed: dict[str, Any] = {"appliance": place, "receiver": receiver, "models": models, "federation": federation}
    changed["console"] = _with_secret(settings.console, file.absolute().parent, file)
    changed |= record_settings.placed(settings.alerts, settings.audit, file.absolute().parent)
    settings = settings.model_copy(update=changed)
    _check_references(settings, file)
    return _placed_outward(settings, file.absolute().parent)


def find_file(given: Path | None = None) -> Path:
    """Return the settings file: `--config`, else CURIE_CONFIG, else curie.toml here."""
    file = given or Path(os.environ.get("CURIE_CONFIG") or DEFAULT_FILE)
    if not file.is_file():
        raise Missing(f"no settings at {file}: run `curie init`, or name the file with --config or CURIE_CONFIG")
    return file.absolute()


def load(given: Path | None = None) -> Settings:
    """Read the settings file and check it. Raises SettingsError or Missing."""
    file = find_file(given)
    try:
        return parse(file.read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
