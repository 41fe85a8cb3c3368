"""The Helm chart: rendered by helm itself, each object held against the schema of Kubernetes, and looked at."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from appliance.catalogue import Catalogue
from appliance.settings import Settings, parse
from tests.deploy.tools import DEPLOY, ROOT, documents, processes_known, run, succeeds, tool

CHART, VALUES = DEPLOY / "helm", Path(__file__).parent / "values"
CASES = ["everything", "external"]
TOML = Path("/etc/curie/curie.toml")


def rendered(case: str, *more: str) -> str:
    return succeeds(tool("helm"), "template", "curie", CHART, "--values", VALUES / f"{case}.yaml", *more)


def objects(case: str, *more: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) → object."""
    return {(one["kind"], one["metadata"]["name"]): one for one in documents(rendered(case, *more))}


def pods(found: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Component → template of its pod."""
    owners = [one for (kind, _), one in found.items() if kind in ("Deployment", "StatefulSet")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"] for one in owners}


def settings_of(found: dict[tuple[str, str], dict[str, Any]]) -> Settings:
    return parse(found["Secret", "curie-settings"]["stringData"]["curie.toml"], TOML)


@pytest.mark.parametrize("case", CASES)
def test_helm_lint_finds_nothing(case: str) -> None:
    succeeds(tool("helm"), "lint", "--strict", CHART, "--values", VALUES / f"{case}.yaml")


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_would_take_every_object(case: str, tmp_path: Path) -> None:
    validate = tool("kubernetes-validate")
    (tmp_path / "all.yaml").write_text(rendered(case))
    said = succeeds(validate, "--strict", tmp_path / "all.yaml")
    assert {line.split("kind ")[1].split()[0] for line in said.splitlines() if "WARN" in line} <= {
        "ScaledObject",
        "TriggerAuthentication",
    }, "only KEDA's are in no schema that we have"
    assert said.count("passed") == len([1 for kind, _ in objects(case) if kind not in _KEDA])
    (tmp_path / "all.yaml").write_text(rendered(case).replace("readOnlyRootFilesystem", "readOnlyRoot"))
    assert run(validate, "--strict", tmp_path / "all.yaml").returncode != 0


_KEDA = ("ScaledObject", "TriggerAuthentication")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("postgresql.password=", "postgresql.password"),
        ("settings.appliance.name=", "/settings/appliance/name"),
        ("worker.gpu=1", "/worker"),
        ("settings.catalogue.url=x", "/settings/catalogue"),
        ("network.sources={10.0.0.0}", "/network/sources/0"),
        ("receiver.service.type=ClusterIP", "/receiver/service/type"),
    ],
)
def test_wrong_values_are_refused_by_name(change: str, named: str) -> None:
    words = ("template", "curie", CHART, "--values", VALUES / "everything.yaml", "--set", change)
    ran = run(tool("helm"), *words)
    assert ran.returncode != 0
    assert named in ran.stdout


def test_the_values_alone_are_not_enough() -> None:
    assert "/settings/appliance/name" in run(tool("helm"), "template", "curie", CHART).stdout


def test_the_settings_are_settings() -> None:
    everything = settings_of(objects("everything"))
    assert everything.catalogue_url == "postgresql+psycopg://curie:not-a-secret@curie-catalogue/curie"
    assert everything.broker.url == "redis://curie-broker:6379/0"
    assert everything.receiver.processes == 4
    assert everything.routes[0].match["BodyPartExamined"] == ["BRAIN", "HEAD"]
    external = settings_of(objects("external"))
    assert external.catalogue_url == "postgresql+psycopg://curie:not-a-secret@db.example.org/curie"
    assert external.broker.url == "rediss://broker.example.org:6380/0"
    assert str(external.data_dir) == "/var/lib/curie"


def test_every_process_of_a_site_has_its_pod() -> None:
    known = processes_known() - {"coordinator"}
    everything, external = pods(objects("everything")), pods(objects("external"))
    assert set(everything) == known | {"catalogue", "broker"}
    assert set(external) == known - {"sidecar"}
    for process in known:
        (container,) = everything[process]["spec"]["containers"]
        assert container["args"] == ["run", process]
        if process != "console":
            assert container["livenessProbe"]["exec"]["command"][-1] == process
            assert container["startupProbe"]["exec"]["command"][-1] == process


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_confined(case: str) -> None:
    for name, pod in pods(objects(case)).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            held = container["securityContext"]
            assert held["readOnlyRootFilesystem"] is True, name
            assert held["allowPrivilegeEscalation"] is False, name
            assert held["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name


def test_the_receiver_is_reached_by_tcp_and_sees_who_calls() -> None:
    found = objects("everything")
    service = found["Service", "curie-receiver"]["spec"]
    assert service["sessionAffinity"] == "ClientIP"
    assert service["externalTrafficPolicy"] == "Local"
    (container,) = pods(found)["receiver"]["spec"]["containers"]
    inside = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert inside == {"dicom": 11112, "dicom-tls": 2762, "stow": 8443}
    assert {port["targetPort"] for port in service["ports"]} == set(inside)
    assert [p["nodePort"] for p in service["ports"] if "nodePort" in p] == [31112]
    assert [p["name"] for p in objects("external")["Service", "curie-receiver"]["spec"]["ports"]] == ["dicom"]


def test_two_never_hold_what_one_may_hold() -> None:
    found = objects("everything")
    assert found["StatefulSet", "curie-receiver"]["spec"]["replicas"] == 1
    for name in ("dispatch", "delivery", "console", "sidecar"):
        spec = found["Deployment", f"curie-{name}"]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def egress(found: dict[tuple[str, str], dict[str, Any]], process: str) -> set[tuple[str, int]]:
    """(CIDR, component or namespace, port) that a process may call, by all policies together."""
    labels = pods(found)[process]["metadata"]["labels"]
    allowed = set()
    for (kind, _), one in found.items():
        if kind != "NetworkPolicy" or "Egress" not in one["spec"]["policyTypes"]:
            continue
        if not chosen(one["spec"]["podSelector"], labels):
            continue
        for rule in one["spec"].get("egress", []):
            allowed |= {(whom(peer), port["port"]) for peer in rule["to"] for port in rule["ports"]}
    return allowed


def chosen(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    among = {one["key"]: one["values"] for one in selector.get("matchExpressions", [])}
    by_labels = all(labels.get(key) == value for key, value in wanted.items())
    return by_labels and all(labels.get(key) in values for key, values in among.items())


def whom(peer: dict[str, Any]) -> str:
    if "ipBlock" in peer:
        return str(peer["ipBlock"]["cidr"])
    selector = peer.get("podSelector") or peer["namespaceSelector"]
    labels = selector["matchLabels"]
    return str(labels.get("app.kubernetes.io/component") or labels["kubernetes.io/metadata.name"])


def test_who_may_call_whom() -> None:
    found = objects("everything")
    nobody = found["NetworkPolicy", "curie-nobody"]["spec"]
    assert nobody["policyTypes"] == ["Ingress", "Egress"]
    assert all(chosen(nobody["podSelector"], pod["metadata"]["labels"]) for pod in pods(found).values())
    inside = {("kube-system", 53), ("catalogue", 5432), ("broker", 6379)}
    for process in ("receiver", "worker", "console"):
        assert egress(found, process) == inside
    for process in ("dispatch", "delivery"):
        assert egress(found, process) == inside | {("10.0.0.5/32", 104)}
    assert egress(found, "sidecar") == inside | {("192.0.2.7/32", 8002)}
    assert egress(found, "catalogue") == egress(found, "broker") == set()
    receiver = found["NetworkPolicy", "curie-receiver"]["spec"]["ingress"]
    assert [[whom(peer) for peer in rule["from"]] for rule in receiver] == [["10.0.0.0/8"]]
    catalogue = found["NetworkPolicy", "curie-catalogue"]["spec"]["ingress"][0]["from"]
    assert [peer.get("namespaceSelector") for peer in catalogue[1:]] == [
        {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}
    ]
    external = objects("external")
    assert egress(external, "worker") == {("kube-system", 53), ("10.0.9.1/32", 5432), ("10.0.9.2/32", 6380)}


def test_without_sources_nobody_may_send() -> None:
    found = objects("everything", "--set", "network.sources=null")
    assert ("NetworkPolicy", "curie-receiver") not in found


def test_workers_follow_the_queue() -> None:
    found = objects("everything")
    scaled = found["ScaledObject", "curie-worker"]["spec"]
    target = scaled["scaleTargetRef"]
    assert (target["kind"], target["name"]) in found
    assert "replicas" not in found[target["kind"], target["name"]]["spec"], "two would turn at it"
    (trigger,) = scaled["triggers"]
    asked = found["TriggerAuthentication", trigger["authenticationRef"]["name"]]["spec"]["secretTargetRef"][0]
    connection = found["Secret", asked["name"]]["stringData"][asked["key"]]
    assert connection == "postgresql://curie:not-a-secret@curie-catalogue/curie"
    (container,) = pods(found)["worker"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    external = objects("external")
    assert external["StatefulSet", "curie-worker"]["spec"]["replicas"] == 3
    assert not [name for kind, name in external if kind in _KEDA]
    assert "nvidia.com/gpu" not in pods(external)["worker"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_question_to_the_catalogue_counts_jobs(catalogue: Catalogue) -> None:
    question = objects("everything")["ScaledObject", "curie-worker"]["spec"]["triggers"][0]["metadata"]["query"]
    states = ["queued", "queued", "running", "completed", "failed"]
    columns = (
        "study_instance_uid, series_instance_uid, package, package_version, package_digest, input_set, priority,"
        " due_at, created_at, timings, findings, id, state"
    )
    values = "'1', '1', 'p', '1.0.0', 'd', 'i', 9, 0, 0, '{}', '[]', ?, ?"
    with catalogue.write() as connection:
        for number, state in enumerate(states):
            connection.exec_driver_sql(f"INSERT INTO job ({columns}) VALUES ({values})", (str(number), state))
        assert connection.exec_driver_sql(question).scalar() == 3


def test_files_that_settings_name_are_mounted() -> None:
    found = objects("everything")
    (container,) = pods(found)["receiver"]["spec"]["containers"]
    places = [one["mountPath"] for one in container["volumeMounts"]]
    tls = settings_of(found).receiver.tls
    assert tls is not None
    assert all(str(file.parent) in places for file in (tls.certificate, tls.key, tls.ca))
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pods(found)["receiver"]["spec"]["volumes"]}
    (sidecar,) = pods(found)["sidecar"]["spec"]["containers"]
    assert "/etc/curie/federation" in [one["mountPath"] for one in sidecar["volumeMounts"]]


def test_chart_and_package_have_one_version() -> None:
    (chart,) = documents((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
