"""The console as a person uses it, in a browser, beside an appliance that has read a study: keyboard, eyes, live pages.

What was seen is kept in .build/acceptance-console. The first test runs the demo, which takes a minute or two.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cli.demo import send
from appliance.settings import Settings, load
from tests import phantoms
from tests.acceptance_viewer.browser import Browser, chromium

pytestmark = [pytest.mark.viewer, pytest.mark.acceptance]
ROOT = Path(__file__).parents[2]
SHOWN = ROOT / ".build" / "acceptance-console"
CURIE = (sys.executable, "-m", "appliance.cli.main")
NAME, PASSWORD = "marie", "correct horse battery"
PAGES = ("/", "/studies", "/models", "/federation", "/destinations", "/audit")
LEAST_CONTRAST = 4.5
# text that is seen → its contrast with what is behind it (WCAG 2.2, relative luminance); those below the least
CONTRASTS = """(() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), low = [];
  let seen = 0;
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || one.closest('svg, .sr, option') || !one.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < %s) low.push([one.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return JSON.stringify({ seen, low });
})()"""
FOCUSABLE = """[...document.querySelectorAll(
  'a[href], button, input:not([type=hidden]), select, summary, [tabindex="0"]')]
  .filter(one => one.checkVisibility()).length"""
# what has the focus, and whether anybody sees that it does
FOCUS = """(() => {
  const one = document.activeElement, style = getComputedStyle(one), at = one.getBoundingClientRect();
  one.dataset.number = one.dataset.number || ++window.numbered;
  const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && at.bottom > 0;
  return JSON.stringify([one.tagName, one.dataset.number, shown]);
})()"""


@dataclass(frozen=True)
class Place:
    """The appliance that runs, and the study it has read."""

    url: str
    study: str
    settings: Settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The data_dir of a demo, served by all processes."""
    if shutil.which("chromium") is None:
        pytest.fail("not installed: chromium; `make acceptance-viewer` installs it")
    folder = tmp_path_factory.mktemp("demo")
    demo = subprocess.run(
        [*CURIE, "demo", "--keep", "--json", "--out", str(folder)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    config = folder / "appliance" / "curie.toml"
    add = [*CURIE, "users", "add", NAME, "--role", "administrator", "--password-file", "-", "--config", str(config)]
    subprocess.run(add, input=PASSWORD, text=True, check=True, cwd=ROOT, capture_output=True)
    settings = load(config)
    with open(folder / "up.log", "w") as log:
        up = subprocess.Popen([*CURIE, "up", "--config", str(config)], cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
    try:
        assert up.stdout is not None
        assert up.stdout.readline().startswith(b"ready:"), (folder / "up.log").read_text()[-2000:]
        wait_for_console(config)
        study = str(json.loads(demo.stdout)["study_instance_uid"])
        yield Place(f"http://127.0.0.1:{settings.console.port}", study, settings)
    finally:
        up.send_signal(signal.SIGTERM)
        asked_at = time.monotonic()
        up.communicate(timeout=60)
        assert time.monotonic() - asked_at < 20, "curie up did not end in time"


def wait_for_console(config: Path) -> None:
    """Wait until `curie status` says that the console is healthy, with the pid of the process itself."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ran = subprocess.run(
            [*CURIE, "status", "--json", "--config", str(config)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        found = [one for one in json.loads(ran.stdout)["processes"] if one["name"] == "console" and one["healthy"]]
        if found:
            assert "run\0console" in Path(f"/proc/{found[0]['pid']}/cmdline").read_text()
            return
        time.sleep(0.5)
    raise AssertionError("curie status does not show the console")


@pytest.fixture(scope="module")
def browser(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that is logged in, by the keyboard alone."""
    shutil.rmtree(SHOWN, ignore_errors=True)
    with chromium(tmp_path_factory.mktemp("browser"), (1280, 900)) as opened:
        opened.resize(1280, 900)
        opened.prefer("light")
        opened.open(f"{place.url}/studies")
        opened.wait("the door", "document.activeElement?.id === 'name'")
        opened.picture(SHOWN / "door.png")
        opened.write(NAME)
        opened.press("Tab")
        opened.write(PASSWORD)
        opened.press("Enter")
        opened.wait("the page that was asked for", "location.pathname === '/studies'")
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The browser; the page and the browser must have nothing to complain of, and show no more than they should."""
    browser.complaints.clear()
    browser.resize(1280, 900)
    browser.prefer("light")
    yield browser
    assert (browser.failures, browser.complaints) == ([], [])


def go(page: Browser, place: Place, path: str) -> None:
    page.ask("window.left = true")
    page.open(f"{place.url}{path}")
    page.wait(path, "!window.left && document.readyState === 'complete' && !!document.querySelector('main h1')")


def whole(page: Browser, name: str) -> Path:
    """Keep a picture of the whole page."""
    height = page.ask("document.documentElement.scrollHeight")
    page.resize(1280, max(height, 600))
    page.wait("pictures", "[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    return page.picture(SHOWN / f"{name}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_page_says_that_all_is_well(page: Browser, place: Place, scheme: str) -> None:
    page.prefer(scheme)
    go(page, place, "/")
    page.wait("the verdict", "document.querySelector('#verdict').innerText.includes('All is well')")
    assert "All is well" in page.ask("document.querySelector('#said').textContent")
    assert page.ask("document.querySelectorAll('.flow li').length") == 5
    whole(page, f"overview-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_study_shows_its_way_and_its_results_over_the_images(page: Browser, place: Place, scheme: str) -> None:
    page.prefer(scheme)
    go(page, place, f"/studies/{place.study}")
    page.ask("for (const one of document.images) one.loading = 'eager'")
    page.wait("the picture", "document.querySelector('figure img').naturalWidth > 1000")
    assert page.ask("document.querySelectorAll('.line .reached').length") == 7
    assert "committed" in page.ask("document.querySelector('article').innerText")
    whole(page, f"study-{scheme}")


def test_the_patient_is_shown_on_request_in_place_and_that_is_on_record(page: Browser, place: Place) -> None:
    go(page, place, f"/studies/{place.study}")
    assert "MNI152" not in page.ask("document.querySelector('main').innerText")
    page.ask("document.querySelector('#identifiers button').focus()")
    page.press("Enter")
    page.wait("the name", "document.querySelector('#identifiers').innerText.includes('MNI152 Template')")
    assert page.ask("location.pathname") == f"/studies/{place.study}"
    go(page, place, "/audit")
    row = page.ask("document.querySelector('tbody tr').innerText")
    assert NAME in row
    assert "patient identifiers shown" in row


def test_the_first_tab_leads_to_the_content(page: Browser, place: Place) -> None:
    go(page, place, "/models")
    page.press("Tab")
    page.wait("the link", "document.activeElement.className === 'skip'")
    assert page.ask("document.activeElement.getBoundingClientRect().top") >= 0
    page.press("Enter")
    page.wait("the content", "document.activeElement.id === 'main'")


@pytest.mark.parametrize("path", PAGES)
def test_all_that_can_be_used_is_reached_by_the_keyboard_and_seen(page: Browser, place: Place, path: str) -> None:
    go(page, place, path)
    page.ask("window.numbered = 0")
    count = page.ask(FOCUSABLE)
    seen = set()
    for _ in range(count):
        page.press("Tab")
        tag, number, shown = json.loads(page.ask(FOCUS))
        assert shown, f"{path}: the focus on a {tag} is not seen"
        seen.add(number)
    assert len(seen) == count


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Browser, place: Place, scheme: str) -> None:
    page.prefer(scheme)
    for path in (*PAGES, f"/studies/{place.study}", "/nowhere"):
        go(page, place, path) if path != "/nowhere" else go(page, place, "/studies/9.9")
        page.ask("for (const one of document.querySelectorAll('details')) one.open = true")
        told = json.loads(page.ask(CONTRASTS % LEAST_CONTRAST))
        assert told["seen"] > 10, path
        assert told["low"] == [], path
    page.complaints.clear()  # that 9.9 is not there


def test_low_contrast_would_be_seen(page: Browser, place: Place) -> None:
    go(page, place, "/")
    low = json.loads(page.ask(CONTRASTS % 22))["low"]
    assert low
    page.ask("document.querySelector('#verdict').classList.add('state')")
    page.ask("document.styleSheets[0].insertRule('#verdict { color: #eee !important }', 0)")
    assert "All is well" in str(json.loads(page.ask(CONTRASTS % LEAST_CONTRAST))["low"])


def test_a_narrow_window_shows_all_without_scrolling_sideways(page: Browser, place: Place) -> None:
    page.resize(360, 740)
    for path in (*PAGES, f"/studies/{place.study}"):
        go(page, place, path)
        assert page.ask("document.documentElement.scrollWidth") <= 360, path
    page.picture(SHOWN / "narrow.png")


def test_a_page_that_is_open_changes_by_itself(page: Browser, place: Place, tmp_path: Path) -> None:
    go(page, place, "/")
    page.ask("document.querySelector('#hours').open = true")
    files = phantoms.write_series(tmp_path, phantoms.series())
    study = send(files, place.settings)
    page.wait("the count", "document.querySelector('.flow li dd').innerText === '2'")
    assert page.ask("document.querySelector('#hours').open") is True
    go(page, place, f"/studies/{study}")
    told = page.ask("document.querySelector('article').innerText")
    assert "unsuitable" in told
    assert "slices" in told
    whole(page, "unsuitable")


def test_a_script_that_got_into_a_page_is_not_run(browser: Browser, place: Place) -> None:
    browser.complaints.clear()
    go(browser, place, "/")
    browser.ask(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.evil = 1'}))"
    )
    assert browser.wait("the refusal", "window.evil === undefined")
    assert any("Content Security Policy" in one for one in browser.complaints)


def test_nothing_is_loaded_from_elsewhere(page: Browser, place: Place) -> None:
    for path in PAGES:
        go(page, place, path)
        loaded = page.ask("performance.getEntriesByType('resource').map(one => one.name)")
        assert len(loaded) >= 4
        assert all(one.startswith(f"{place.url}/") for one in loaded), loaded
        kept = json.loads(page.ask("JSON.stringify({ ...localStorage, ...sessionStorage })"))
        assert kept in ({}, {"htmx-current-path-for-history": path})


def test_what_cannot_be_shown_is_said_where_it_was_asked_for(browser: Browser, place: Place) -> None:
    for file in place.settings.spool_dir.rglob("*.dcm"):
        file.unlink()
    go(browser, place, f"/studies/{place.study}")
    browser.ask("document.querySelector('#identifiers button').click()")
    browser.wait("the reason", "document.querySelector('#identifiers').innerText.includes('spool.keep_days')")
    assert browser.ask("document.querySelectorAll('main').length") == 1
