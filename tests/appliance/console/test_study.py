"""Where is a study, why is there no result, and who is the patient: what the pages say and to whom."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from appliance.catalogue import Catalogue, jobs, outbox, overview, routing
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.catalogue.routing import RoutedPackage
from appliance.routing import RouteDecision
from appliance.settings import Settings
from tests.appliance.catalogue.rows import PACKAGE, instance, queued_job, receive
from tests.appliance.console.conftest import SERIES_OF_PHANTOM, Enter
from tests.appliance.console.visits import on_record, said, send
from workers.forgetting import forget

RESULT_OF_REPLAY = [NewResult("2.25.8", "1.2", "2.25.9", "SEG", "replay.dcm", "cd" * 32, 1)]
NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>'
EXPECTED = (
    "● complete", "● results", "○ delivered not yet", "brain@1.0.0 ▸ delivering", "Brain Volume 13.25 ml",
    "computed by openvino f32", "inference 2.00 s", "package digest digest", "SEG … waiting",
)  # fmt: skip
PATIENT = ("Phantom Head", "PH-1", "1867-11-07", "A1914", "ACC-12345")


def test_a_finished_study_shows_its_way_results_and_passport(enter: Enter, finished: str) -> None:
    shown = said(enter().get("/studies/1.2.3"))
    assert [one for one in EXPECTED if one not in shown] == [], shown
    assert re.search(r" to \d{4}-\d\d-\d\d \S+, attempt 1", shown), "the job goes on, its results are made"


def test_a_replay_is_no_part_of_a_study_s_way(enter: Enter, catalogue: Catalogue, finished: str) -> None:
    with catalogue.write() as connection:
        (sent,) = outbox.due(connection, now())
        outbox.delivered(connection, sent, "0x0000", now(), now())
        summary = routing.study_summary(connection, "1.2.3")
        decision = RouteDecision("job", "", (("image", SERIES_OF_PHANTOM),))
        other = RoutedPackage("", "other", "2.0.0", "d2", (), 29, shadow=True)
        routing.open_shadow(connection, summary, other, decision, now())
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        jobs.commit_results(connection, held, RESULT_OF_REPLAY, {}, {"engine": "e", "findings": []}, now())
    way = said(enter().get("/studies/1.2.3")).partition("Outcomes")[0]
    assert "times" not in way
    assert "-" not in re.sub(r"20\d\d-\d\d-\d\d", "", way.partition("Its way")[2])


def test_each_job_has_a_line_of_its_own(enter: Enter, catalogue: Catalogue, finished: str) -> None:
    with catalogue.write() as connection:
        summary = routing.study_summary(connection, "1.2.3")
        decision = RouteDecision("job", "", (("image", SERIES_OF_PHANTOM),))
        other = RoutedPackage("second", "other", "2.0.0", "d2", ("pacs",), 9)
        routing.record_decision(connection, summary, other, decision, now())
    way = said(enter().get("/studies/1.2.3")).partition("Outcomes")[0]
    first, second = way.partition("Its way")[2].split("other@2.0.0")
    assert "brain@1.0.0" in first
    assert ("● results" in first, "● started" in first) == (True, True)
    assert ("○ started not yet" in second, "● routed" in second) == (True, True)


@pytest.mark.parametrize(
    ("outcome", "reason"), [("unsuitable", "3 slices, the package wants 20"), ("failed", "no GPU")]
)
def test_a_study_without_a_result_says_why(enter: Enter, catalogue: Catalogue, outcome: str, reason: str) -> None:
    queued_job(catalogue, "1.2.3")
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        jobs.finish(connection, held, outcome, reason, now())
    client = enter()
    shown = said(client.get("/studies/1.2.3"))
    assert outcome in shown
    assert reason in shown
    assert reason in said(client.get("/parts/studies/1.2.3"))
    assert "○ delivered not reached" in shown
    assert "/studies/1.2.3" in client.get(f"/studies?outcome={outcome}").text
    assert "/studies/1.2.3" not in client.get("/studies?outcome=completed").text


def test_a_study_that_no_route_takes_says_so(enter: Enter, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance(study="1.2.3"))
        summary = routing.study_summary(connection, "1.2.3")
        decision = RouteDecision("not_routed", "Modality is MR, the route wants CT")
        routing.record_decision(connection, summary, PACKAGE, decision, now())
    shown = said(enter().get("/studies/1.2.3"))
    assert "○ not routed" in shown
    assert "Modality is MR, the route wants CT" in shown


def test_what_headers_and_reasons_say_is_text_and_nothing_else(enter: Enter, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        nasty = {"SeriesDescription": NASTY, "Manufacturer": NASTY}
        receive(connection, instance(study="1.2.3", accession_number=NASTY, attributes=nasty, modality=NASTY[:16]))
        summary = routing.study_summary(connection, "1.2.3")
        routing.record_decision(connection, summary, PACKAGE, RouteDecision("failed", NASTY), now())
    client = enter("operator")
    for page in ("/studies/1.2.3", "/parts/studies/1.2.3", "/studies", "/"):
        answer = client.get(page).text
        assert "<script>alert" not in answer
        assert "<img src=x" not in answer
    assert "&lt;script&gt;alert" in client.get("/studies/1.2.3").text
    for key in (NASTY, f"1.2.3'{NASTY}"):
        assert "<script>alert" not in send(client, "/studies/search", key=key).text
    assert "<script>alert" not in client.get(f"/studies/{NASTY.replace('/', '%2F')}").text


@pytest.mark.parametrize("role", ["viewer", "operator", "administrator"])
def test_who_the_patient_is_stands_on_no_page(enter: Enter, finished: str, role: str) -> None:
    client = enter(role)
    for page in ("/", "/studies", "/studies/1.2.3", "/parts/studies/1.2.3", "/destinations", "/audit", "/api/studies",
                 "/api/studies/1.2.3", "/api/status", "/healthz", "/metrics", "/models"):  # fmt: skip
        answer = client.get(page)
        assert not [one for one in PATIENT if one in answer.text], page
        assert answer.headers.get("cache-control") == "no-store"


def test_an_operator_who_asks_is_told_and_stands_on_record(enter: Enter, finished: str, catalogue: Catalogue) -> None:
    client = enter("operator")
    answer = said(send(client, "/studies/1.2.3/identifiers"))
    for expected in ("Phantom Head", "PH-1", "1867-11-07", "A1914"):
        assert expected in answer
    assert on_record(catalogue) == [("identifiers_shown", "operator-anna", "1.2.3")]
    client.headers["hx-request"] = "true"
    part = send(client, "/studies/1.2.3/identifiers").text
    assert "Phantom Head" in part
    assert "<html" not in part
    assert len(on_record(catalogue)) == 2


def test_a_viewer_who_asks_is_told_nothing(enter: Enter, finished: str, catalogue: Catalogue) -> None:
    answer = send(enter("viewer"), "/studies/1.2.3/identifiers")
    assert answer.status_code == 403
    assert "Phantom" not in answer.text
    assert on_record(catalogue) == []


def test_nothing_is_told_that_could_not_be_put_on_record(
    enter: Enter, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("appliance.catalogue.events.record", full)
    answer = send(enter("operator"), "/studies/1.2.3/identifiers")
    assert answer.status_code == 500
    assert "Phantom" not in answer.text


def test_a_forgotten_study_looks_forgotten(
    enter: Enter, finished: str, settings: Settings, catalogue: Catalogue
) -> None:
    forget(settings, catalogue, "1.2.3", "marie", "asked")
    client = enter("operator")
    sentence = f"{now():%Y-%m-%d} by marie"
    assert f"Forgotten on {sentence}: images, results" in said(client.get("/studies/1.2.3"))
    assert "○ forgotten" in said(client.get("/studies"))
    assert f"the study was forgotten on {sentence}" in said(send(client, "/studies/1.2.3/identifiers"))
    assert f"the study was forgotten on {sentence}" in said(client.get(f"/studies/1.2.3/jobs/{finished}/picture.png"))
    assert ("study_forgotten", "marie", "1.2.3") in on_record(catalogue)


def test_asking_for_what_retention_removed_says_so(enter: Enter, finished: str, settings: Settings) -> None:
    for file in settings.spool_dir.iterdir():
        file.unlink()
    answer = send(enter("operator"), "/studies/1.2.3/identifiers")
    assert answer.status_code == 404
    assert "spool.keep_days" in said(answer)


@pytest.mark.parametrize("key", ["ACC-12345", " 1.2.3 "])
def test_a_study_is_found_by_either_number_and_the_number_stays_out_of_the_address(
    enter: Enter, finished: str, key: str
) -> None:
    found = send(enter(), "/studies/search", key=key)
    assert found.headers["location"] == "/studies/1.2.3"


@pytest.mark.parametrize("key", ["ACC-1234", "ACC-%", "1.2", "*", "' OR '1'='1"])
def test_a_search_is_exact(enter: Enter, finished: str, key: str) -> None:
    answer = send(enter(), "/studies/search", key=key)
    assert answer.status_code == 404
    assert "no study has this Study Instance UID or Accession Number" in said(answer)


def test_several_studies_of_one_number_are_listed(enter: Enter, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        for study in ("1.1", "1.2"):
            receive(connection, instance(uid=f"{study}.1", study=study, accession_number="SAME"))
    listed = send(enter(), "/studies/search", key="SAME").text
    assert "/studies/1.1" in listed
    assert "/studies/1.2" in listed


def test_older_studies_are_one_page_further(enter: Enter, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        for n in range(51):
            receive(connection, instance(uid=f"1.{n}.1", study=f"1.{n}"))
    client = enter()
    first = client.get("/studies").text
    older = first.partition("/studies?before=")[2].partition('"')[0]
    assert ("/studies/1.50" in first, '"/studies/1.0"' in first) == (True, False)
    assert '"/studies/1.0"' in client.get(f"/studies?before={older}").text


def test_an_operator_tries_a_failed_job_again(enter: Enter, catalogue: Catalogue) -> None:
    job = queued_job(catalogue, "1.2.3")
    client = enter("operator")
    refused = send(client, f"/studies/1.2.3/jobs/{job}/retry")
    assert refused.status_code == 409
    assert "only failed, unsuitable or cancelled jobs can be retried" in said(refused)
    with catalogue.write() as connection:
        held = jobs.claim(connection, "worker", now())
        assert held is not None
        jobs.finish(connection, held, "failed", "no", now())
    assert "Try again" in client.get("/studies/1.2.3").text
    assert "Try again" not in enter("viewer").get("/studies/1.2.3").text
    assert send(client, f"/studies/other/jobs/{job}/retry").status_code == 409
    assert send(client, f"/studies/1.2.3/jobs/{job}/retry").status_code == 303
    with catalogue.read() as connection:
        assert overview.job_record(connection, job)["state"] == "queued"
    retried = [one for one in on_record(catalogue) if one[0] == "job_retried"]
    assert retried == [("job_retried", "operator-anna", "1.2.3")]


def test_the_picture_shows_the_segments_over_the_images(enter: Enter, finished: str) -> None:
    client = enter()
    answer = client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert answer.headers["content-type"] == "image/png", said(answer)
    seen = Image.open(io.BytesIO(answer.content)).convert("RGB")
    pixels = np.asarray(seen.crop((10, 36, 10 + 360, 36 + 360))).astype(int)
    assert (pixels[..., 0] > pixels[..., 2] + 60).sum() > 5000
    assert client.get(f"/studies/1.2.3/jobs/{finished}/picture.png").content == answer.content


def test_a_picture_of_images_that_hold_text_or_are_gone_is_refused(
    enter: Enter, finished: str, settings: Settings
) -> None:
    from pydicom import dcmread

    files = sorted(settings.spool_dir.iterdir())
    ds = dcmread(files[0])
    ds.BurnedInAnnotation = "YES"
    ds.save_as(files[0])
    client = enter()
    answer = client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert answer.status_code == 422
    assert "text is burned into them" in said(answer)
    files[0].unlink()
    gone = client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert gone.status_code == 404
    assert "spool.keep_days" in said(gone)


def test_a_picture_that_takes_too_long_or_too_much_is_ended(
    enter: Enter, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = enter()
    monkeypatch.setattr("appliance.console.pictures.DRAWING_S", 0.1)
    answer = client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert "took more than 0 s and was ended" in said(answer)
    monkeypatch.setattr("appliance.console.pictures.DRAWING_S", 60.0)
    monkeypatch.setattr("appliance.console.pictures.MEMORY_BYTES", 100 * 1024**2)
    answer = client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert "within the memory and time" in said(answer)


def test_the_job_of_another_study_has_no_picture_here(enter: Enter, finished: str, catalogue: Catalogue) -> None:
    queued_job(catalogue, "9.9")
    assert enter().get(f"/studies/9.9/jobs/{finished}/picture.png").status_code == 404


def test_a_study_that_blocks_itself_says_that_it_does(enter: Enter, catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance(uid="1", study="1.2.3"))
        receive(connection, instance(uid="1", study="1.2.3", path="other", state="conflict"), revision=2)
        connection.execute(text("UPDATE study SET state = 'complete', routed = 1"))
    assert "Nothing was decided yet." in said(enter().get("/studies/1.2.3"))


def test_the_spool_is_left_as_it_is(enter: Enter, finished: str, settings: Settings) -> None:
    before = {file: file.read_bytes() for file in Path(settings.spool_dir).iterdir()}
    client = enter("operator")
    send(client, "/studies/1.2.3/identifiers")
    client.get(f"/studies/1.2.3/jobs/{finished}/picture.png")
    assert {file: file.read_bytes() for file in Path(settings.spool_dir).iterdir()} == before
