"""Settings refuse what they do not know, in one line that names key, value and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from appliance.errors import Missing, SettingsError
from appliance.example import example_settings
from appliance.settings import load, parse

FILE = Path("/somewhere/curie.toml")
DESTINATION = '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "h"\n'
WEB = '[[destinations]]\nname = "web"\nurl = "https://pacs/dicom-web"\n'
WORKLIST = '[[worklists]]\nname = "w"\nurl = "https://pacs/dicom-web"\nroute = "r"\n'
MESSAGES = '[[messages]]\nname = "ris"\nhost = "ris"\n'
CONTRACT_KEYS = """
[appliance]
name = "st-elsewhere"
uid = "2.25.1"
data_dir = "data"
[catalogue]
url = "sqlite:///{data_dir}/other.db"
[broker]
url = "redis://localhost:6379/0"
[spool]
reserve_gb = 5
keep_days = 30
[receiver]
ae_title = "CURIE"
host = "0.0.0.0"
port = 11112
processes = 1
unknown_sources = "accept"
max_associations = 64
max_associations_per_source = 16
max_associations_per_address = 8
max_instance_gb = 4
stow = false
stow_port = 8443
[receiver.tls]
port = 2762
certificate = "c"
key = "k"
ca = "a"
[completeness]
after_release_s = 3
quiet_s = 30
force_s = 900
[worker]
device = "cuda:0"
count = 2
memory_gb = 0
backends = ["openvino", "torch"]
[sender]
ae_title = "CURIE"
[console]
host = "127.0.0.1"
port = 8480
[[sources]]
ae_title = "SCANNER1"
hosts = ["10.0.0.0/8"]
host = "10.0.0.5"
port = 104
fingerprint = "sha256:00"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "pacs.local"
port = 104
commitment = true
find = false
results = ["SEG", "SR", "KOS"]
[[routes]]
name = "brain-mr"
package = "brain-structures@1.2.0"
destinations = ["pacs"]
match = { Modality = "MR", BodyPartExamined = ["BRAIN", "HEAD"], SliceThickness = { max = 3 } }
priority = "urgent"
report_negative = true
report_failure = false
[federation]
coordinator = "grpcs://fl.example:8002"
kit = "/etc/curie/federation"
hours = "19:00-06:00"
min_new_cases = 20
device = "cpu"
epsilon_budget = 8.0
privacy = "clip"
packages = ["hippocampus"]
[coordinator]
port = 8002
schedule = "0 2 * * 0"
min_sites = 3
aggregation = "weighted-mean"
[models]
trusted_keys = ["/etc/curie/keys/publisher.pub"]
allow_unsigned = false
two_person_promotion = false
[alerts]
webhook = ""
smtp = ""
[audit]
syslog = ""
keep_years = 10
"""


def test_every_key_of_the_contract_is_accepted() -> None:
    settings = parse(CONTRACT_KEYS, FILE)
    assert settings.data_dir == Path("/somewhere/data")
    assert settings.catalogue_url == "sqlite:////somewhere/data/other.db"
    assert settings.without_effect() == []


def test_a_web_destination_takes_its_files_from_beside_the_settings() -> None:
    settings = parse(WEB + 'auth = "bearer:token"\nca = "ca.pem"\ncommitment = true\n', FILE)
    (one,) = settings.destinations
    assert (one.auth, one.ca) == ("bearer:/somewhere/token", Path("/somewhere/ca.pem"))
    assert not one.commits
    assert "destinations.web.commitment beside url" in settings.without_effect()
    assert not any("auth" in key or key.rsplit(".")[-1] == "url" for key in settings.without_effect())


def test_addresses_of_records_take_their_files_from_beside_the_settings() -> None:
    text = (
        '[audit]\nsyslog = "tls://log:6514?ca=tls/my%20ca.pem&certificate=/etc/own.pem&key=own.key"\n'
        '[alerts]\nsmtp = "smtp://mail:25?to=it@example.org&auth=mail.secret"\n'
    )
    settings = parse(text, FILE)
    syslog, smtp = urlsplit(settings.audit.syslog), urlsplit(settings.alerts.smtp)
    assert (syslog.scheme, syslog.netloc, smtp.scheme, smtp.netloc) == ("tls", "log:6514", "smtp", "mail:25")
    assert parse_qs(syslog.query) == {
        "ca": ["/somewhere/tls/my ca.pem"], "certificate": ["/etc/own.pem"], "key": ["/somewhere/own.key"],
    }  # fmt: skip
    assert parse_qs(smtp.query) == {"to": ["it@example.org"], "auth": ["/somewhere/mail.secret"]}
    plain = parse('[audit]\nsyslog = "tls://log:6514"\n', FILE)
    assert (plain.audit.syslog, plain.alerts.smtp) == ("tls://log:6514", "")


def test_worklists_and_messages_name_routes() -> None:
    route = '[[routes]]\nname = "r"\npackage = "p"\non_request = true\n'
    text = route + WORKLIST + 'scheduled_station = "CURIE"\nauth = "basic:b"\n' + MESSAGES + 'routes = ["r"]\n'
    settings = parse(text, FILE)
    assert settings.worklists[0].auth == "basic:/somewhere/b"
    assert settings.messages[0].port == 2575
    assert settings.routes[0].on_request


def test_the_example_is_valid() -> None:
    assert parse(example_settings(), FILE).receiver.port == 11112


def test_an_empty_file_has_the_defaults_and_a_uid() -> None:
    settings = parse("", FILE)
    assert settings.completeness.after_release_s == 3
    assert settings.appliance_uid == parse("", FILE).appliance_uid


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[receiver]\nprot = 1", ["receiver.prot", "did you mean 'port'"]),
        ("[reciever]\nport = 1", ["reciever", "did you mean 'receiver'"]),
        ("[receiver]\nport = 0", ["receiver.port", "0", "greater than or equal to 1"]),
        ('[receiver]\nport = "x"', ["receiver.port", "'x'"]),
        ('[receiver]\nunknown_sources = "maybe"', ["receiver.unknown_sources", "'maybe'", "'refuse' or 'accept'"]),
        ('[receiver]\nae_title = "MORE THAN SIXTEEN"', ["receiver.ae_title", "1 to 16"]),
        ('[[sources]]\nae_title = "A"\nhosts = ["10.0.0.0/99"]', ["sources.A.hosts", "10.0.0.0/99"]),
        ("[[sources]]\nhosts = []", ["sources.0.ae_title", "needed"]),
        ('[[destinations]]\nname = "p"', ["'p'", "ae_title and host"]),
        (WEB + 'host = "h"', ["destinations.web.host", "'h'", "either url, or ae_title"]),
        (WEB + "port = 104", ["destinations.web.port", "104"]),
        (WEB + "notify = true", ["destinations.web.notify", "true", "an AE"]),
        (WEB + 'auth = "digest:x"', ["destinations.web.auth", "'digest:x'", "bearer:FILE"]),
        (WEB.replace("https", "ftp"), ["destinations.web.url", "ftp://pacs", "https://"]),
        (WEB.replace("//", "//me:secret@"), ["destinations.web.url", "names no user"]),
        (WEB.replace("https", "http") + 'auth = "bearer:t"', ["destinations.web.url", "in the clear"]),
        (WEB.replace("https", "http") + 'ca = "c"', ["destinations.web.ca", "without https"]),
        (DESTINATION + 'auth = "bearer:t"', ["destinations.pacs.auth", "without url"]),
        (WORKLIST, ["worklists.w", "scheduled_station, label or workitem_code"]),
        (WORKLIST + 'label = "AI"', ["worklists.w.route", "'r'", "none is set"]),
        (WORKLIST + "statoin = 1", ["worklists.w.statoin", "known here"]),
        ('[[routes]]\nname = "r"\npackage = "p"\non_request = true', ["routes.r.on_request", "true", "no worklist"]),
        (MESSAGES + 'routes = ["r"]', ["messages.ris.routes", "'r'", "not a route"]),
        (MESSAGES + "port = 0", ["messages.ris.port", "0"]),
        (MESSAGES + 'facility = "a|b"', ["messages.ris.facility", "a|b"]),
        (MESSAGES + 'ca = "c"', ["messages.ris.ca", "without tls"]),
        (MESSAGES + MESSAGES, ["'ris'", "twice"]),
        (DESTINATION + DESTINATION, ["'pacs'", "twice"]),
        ('[[routes]]\nname = "r"\npackage = "p"\ndestinations = ["x"]', ["'x'", "not a destination", "none is set"]),
        ('[[routes]]\nname = "r"\npackage = "P!"', ["routes.r.package"]),
        ('[[routes]]\nname = "r"\npackage = "p"\nmatch = { modality = "MR" }', ["match.modality", "DICOM keyword"]),
        ('[[routes]]\nname = "r"\npackage = "p"\nmatch = { Modality = { about = 1 } }', ["min, max, regex"]),
        ('[[routes]]\nname = "r"\npackage = "p"\nmatch = { Modality = { regex = "(" } }', ["regex", "'('"]),
        ('[broker]\nurl = "amqp://x"', ["broker.url", "amqp://x"]),
        ('[broker]\nurl = "amqp://a:b@x"', ["broker.url = 'amqp:…'", "embedded", "redis://", "rediss://"]),
        ('[worker]\nbackends = ["cuda"]', ["worker.backends", "'cuda'", "'openvino'"]),
        ("not toml", ["not valid TOML"]),
    ],
)
def test_bad_settings_name_the_key_and_what_is_allowed(text: str, wanted: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text, FILE)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert str(FILE) in sentence
    for part in wanted:
        assert part in sentence


@pytest.mark.parametrize(
    "text",
    [
        '[broker]\nurl = "amqp://a:secretpw@h"',
        '[broker]\nurl = "redis:/:secretpw@h"',
        'broker = "redis://:secretpw@h"',
        'broker = [{ url = "redis://:secretpw@h" }]',
        '[console]\nurl = "https://a:secretpw@h"',
    ],
)
def test_no_password_is_quoted(text: str) -> None:
    with pytest.raises(SettingsError, match="is not allowed") as refused:
        parse(text, FILE)
    assert "secretpw" not in str(refused.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CURIE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Missing, match="curie init"):
        load()


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[receiver]\nport = 4242\n")
    monkeypatch.setenv("CURIE_CONFIG", str(file))
    assert load().receiver.port == 4242


@pytest.mark.parametrize(
    "more",
    ["[console]\nport = 11112\n", "[receiver]\nstow = true\nstow_port = 8480\n", "[receiver]\nport = 8480\n"],
)
def test_two_of_our_ports_are_never_one(tmp_path: Path, more: str) -> None:
    with pytest.raises(SettingsError, match="give each a port of its own"):
        parse(more, tmp_path / "curie.toml")
    parse("[receiver]\nstow_port = 8480\n", tmp_path / "curie.toml")  # it is not opened


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[[sources]]\nae_title = "CT1"\nhosts = ["10.0.0.300"]\n', "sources.CT1.hosts = '10.0.0.300'"),
        (DESTINATION + "port = 0\n", "destinations.pacs.port = 0"),
        ('[[sources]]\nhosts = ["10.0.0.1"]\n', "sources.0.ae_title is needed"),
        (DESTINATION + "colour = 1\n", "unknown setting destinations.pacs.colour"),
    ],
)
def test_what_stands_in_a_list_is_named_and_not_counted(text: str, key: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(key)):
        parse(text, FILE)
