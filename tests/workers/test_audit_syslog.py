"""Audit messages reach a real TLS server in the words of PS3.15 A.5, none is lost while it is away."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from appliance.catalogue import Catalogue, audit, events
from appliance.errors import SettingsError
from appliance.neighbours import check_collector
from appliance.settings import Settings, load
from tests.appliance.catalogue.rows import queued_job
from tests.certificates import Authority
from workers.audit_syslog import SENT, Sending
from workers.auditing import on_record

LINE = re.compile(rb"<(8[45])>1 (\S+Z) (\S+) curie (\S+) DICOM\+RFC3881 - \xef\xbb\xbf(<\?xml.*)", re.DOTALL)


class Collector:
    """A syslog server with TLS on loopback; it keeps whole frames, and may reset connections."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        self.got: list[Element] = []
        self.resets = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.door.accept()
            except OSError:
                return
            with plain, suppress(OSError), self.context.wrap_socket(plain, server_side=True) as stream:
                if self.resets:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue
                content = b""
                while part := stream.recv(65536):
                    content += part
                stream.unwrap().close()
                self._keep(content)

    def _keep(self, content: bytes) -> None:
        while content:
            size, content = content.split(b" ", 1)
            line, content = content[: int(size)], content[int(size) :]
            found = LINE.fullmatch(line)
            assert found, line
            self.got.append(ElementTree.fromstring(found[5]))


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    certificate, key = Authority(tmp_path / "pki").for_address("127.0.0.1")
    collector = Collector(certificate, key)
    yield collector
    collector.door.close()


def settings_of(tmp_path: Path, collector: Collector) -> Settings:
    file = tmp_path / "curie.toml"
    file.write_text(
        f'[appliance]\ndata_dir = "{tmp_path}"\n[audit]\n'
        f'syslog = "tls://127.0.0.1:{collector.port}?ca={tmp_path / "pki" / "ca.pem"}"\n'
    )
    return load(file)


def happen(catalogue: Catalogue, job: str = "1914") -> None:
    """A login that was refused, a delivery of a job, a change that DICOM has no message for."""
    with catalogue.write() as connection:
        events.record(connection, "login_refused", who="marie", address="10.0.0.7", reason="wrong password")
        events.record(connection, "result_delivered", job=job, to="PACS")
        events.record(connection, "job_put_back", job=job, cause="lost")
        audit.seal(connection)


def attributes(message: Element, path: str) -> dict[str, str]:
    found = message.find(path)
    assert found is not None
    return dict(found.attrib)


def test_what_happens_after_the_first_start_is_told_in_the_standards_words(
    tmp_path: Path, catalogue: Catalogue, collector: Collector
) -> None:
    with catalogue.write() as connection:
        events.record(connection, "login", who="earlier", address="10.0.0.7")
    job = queued_job(catalogue, "1.2.3")
    with catalogue.write() as connection:
        audit.seal(connection)
    sending = Sending(settings_of(tmp_path, collector), catalogue)
    happen(catalogue, job)
    sending.step()
    login, delivery = collector.got
    assert attributes(login, "EventIdentification/EventID")["csd-code"] == "110114"
    assert attributes(login, "EventIdentification/EventTypeCode")["csd-code"] == "110122"
    assert attributes(login, "EventIdentification")["EventOutcomeIndicator"] == "4"
    assert login.findtext("EventIdentification/EventOutcomeDescription") == "wrong password"
    who = attributes(login, "ActiveParticipant")
    assert (who["UserID"], who["UserIsRequestor"], who["NetworkAccessPointID"]) == ("marie", "true", "10.0.0.7")
    assert who["NetworkAccessPointTypeCode"] == "2"
    assert attributes(delivery, "EventIdentification/EventID")["originalText"] == "DICOM Instances Transferred"
    sender, taker = (one.attrib["UserID"] for one in delivery.findall("ActiveParticipant"))
    assert (sender, taker) == ("CURIE", "PACS")
    about = {
        one.findtext("ParticipantObjectName"): one.attrib["ParticipantObjectID"]
        for one in delivery.findall("ParticipantObjectIdentification")
    }
    assert about == {"study": "1.2.3", "patient": "unknown"}


def test_start_and_stop_are_told(tmp_path: Path, catalogue: Catalogue, collector: Collector) -> None:
    sending = Sending(settings_of(tmp_path, collector), catalogue)
    with on_record(catalogue):
        pass
    with catalogue.write() as connection:
        audit.seal(connection)
    sending.step()
    kinds = [attributes(one, "EventIdentification/EventTypeCode")["csd-code"] for one in collector.got]
    assert kinds == ["110120", "110121"]


def test_what_a_collector_did_not_take_is_sent_when_it_is_back_and_once(
    tmp_path: Path, catalogue: Catalogue, collector: Collector
) -> None:
    settings = settings_of(tmp_path, collector)
    sending = Sending(settings, catalogue)
    happen(catalogue)
    collector.resets = True
    sending.step()
    assert not collector.got
    collector.resets = False
    sending.step()
    sending.step()
    assert len(collector.got) == 2
    happen(catalogue)
    Sending(settings, catalogue).step()  # a process that starts again goes on where the last one stood
    assert len(collector.got) == 4
    with catalogue.read() as connection:
        assert events.last_detail(connection, SENT)["count"] == 2


def test_a_collector_of_an_unknown_authority_gets_nothing(
    tmp_path: Path, catalogue: Catalogue, collector: Collector
) -> None:
    settings = settings_of(tmp_path, collector)
    assert check_collector(settings)[0].ok
    Authority(tmp_path / "pki")
    sending = Sending(settings, catalogue)
    happen(catalogue)
    sending.step()
    assert not collector.got
    (look,) = check_collector(settings)
    assert not look.ok
    assert "certificate verify failed" in look.text


@pytest.mark.parametrize("address", ["udp://host", "tls://", "tls://me:secret@host", "tls://host?password=x"])
def test_another_kind_of_address_is_refused(tmp_path: Path, address: str) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(f'[audit]\nsyslog = "{address}"\n')
    with pytest.raises(SettingsError, match="collector"):
        load(file)
