"""compose.yaml: it follows the schema, every process is there and confined, and its settings are settings."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from appliance.settings import load
from tests.deploy.tools import DEPLOY, ROOT, documents, processes_known, run, succeeds, tool, words_after

OURS = {"receiver", "dispatch", "worker", "delivery", "console", "sidecar"}
FILES = [DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml"]


@pytest.fixture
def compose() -> dict[str, Any]:
    (found,) = documents(FILES[0].read_text())
    return found


@pytest.fixture
def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose["services"].items() if name in OURS}


def test_the_schema_of_compose_holds() -> None:
    succeeds(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *FILES)


def test_the_schema_of_compose_would_refuse_a_key(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILES[0].read_text().replace("cap_drop: [ALL]", "cap_dorp: [ALL]"))
    assert "cap_dorp" in run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong).stdout


def test_every_process_of_a_site_has_a_service(ours: dict[str, dict[str, Any]]) -> None:
    assert set(ours) == processes_known() - {"coordinator"}  # that is another place's
    for name, service in ours.items():
        assert service["command"] == ["run", name]
        assert service["hostname"] == name
        if name != "console":
            assert words_after(service["healthcheck"]["test"], "/usr/local/lib/curie/healthy.py") == name


def test_everything_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["logging"]["options"]["max-size"], name
        assert not service.get("privileged"), name


def test_only_who_must_reaches_out(compose: dict[str, Any]) -> None:
    assert compose["networks"]["inside"]["internal"] is True
    out = {name for name, one in compose["services"].items() if set(one["networks"]) - {"inside"}}
    assert out == {"receiver", "dispatch", "delivery", "console", "sidecar"}
    assert [name for name, one in compose["services"].items() if "consortium" in one["networks"]] == ["sidecar"]
    opened = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert [port for port in opened if port.endswith(":8480")] == ["127.0.0.1:8480:8480"]


def test_what_is_named_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for network in service["networks"]:
            assert network in compose["networks"], name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"], name
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in compose["secrets"], name
    build = compose["services"]["receiver"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert compose["services"]["receiver"]["image"] == f"${{CURIE_IMAGE:-petite-curie:{version}}}"
    (gpu,) = documents(FILES[1].read_text())
    assert set(gpu["services"]) <= set(compose["services"])


def three_lines() -> str:
    """The lines of docs/operating.md that make secrets/."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    (block,) = [one for one in blocks if "secrets/catalogue_password" in one]
    return "\n".join(line for line in block.splitlines() if not line.startswith(("cd ", "docker ")))


def test_the_documented_lines_make_settings_and_secrets(tmp_path: Path, compose: dict[str, Any]) -> None:
    (tmp_path / "curie.toml").write_text((DEPLOY / "curie.toml").read_text())
    succeeds("sh", "-eu", "-c", three_lines(), cwd=tmp_path)
    for name, secret in compose["secrets"].items():
        file = tmp_path / secret["file"]
        assert file.is_file(), name
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o444  # read by another user inside
    assert stat.S_IMODE(os.stat(tmp_path / "secrets").st_mode) == 0o700  # and by nobody outside
    settings = load(tmp_path / "secrets" / "curie.toml")
    password = (tmp_path / "secrets" / "catalogue_password").read_text().strip()
    assert len(password) == 48
    assert settings.catalogue_url == f"postgresql+psycopg://curie:{password}@catalogue/curie"
    assert settings.appliance.name == "st-elsewhere"
    assert str(settings.data_dir) == "/var/lib/curie"
    places = {settings.catalogue_url.rsplit("@")[1].split("/")[0], settings.broker.url.split("/")[2].split(":")[0]}
    assert places <= set(compose["services"])


def test_the_commented_lines_of_the_settings_load(tmp_path: Path) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(re.sub(r"^#(?=[\[a-z])", "", (DEPLOY / "curie.toml").read_text(), flags=re.MULTILINE))
    settings = load(file)
    assert (len(settings.sources), len(settings.destinations), len(settings.routes)) == (1, 1, 1)
