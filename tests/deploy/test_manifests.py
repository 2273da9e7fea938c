"""Every topology, rendered by kubectl: it is what Kubernetes and the others accept, and fits together."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from smoothgate.settings import Settings
from tests.programs import left_out, program

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
# Custom resource definitions, kept beside the checkout: their projects', not ours to copy.
SCHEMAS = ROOT.parent / "shared" / "schemas"
KUBERNETES = "1.34"

Manifest = dict[str, Any]


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    kubectl = program("kubectl", package="1.21 or newer")
    version = json.loads(_run(kubectl, "version", "--client", "--output=json").stdout)["clientVersion"]
    if (int(version["major"]), int(re.sub(r"\D", "", version["minor"]))) < (1, 21):
        left_out(f"kubectl {version['gitVersion']} knows no components of Kustomize: install 1.21 or newer")
    result = _run(kubectl, "kustomize", DEPLOY / "overlays" / overlay)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, "deprecated fields are said there"
    return tuple(yaml.safe_load_all(result.stdout))


def find(overlay: str, kind: str, name: str = "smoothgate") -> Manifest:
    (found,) = (
        each for each in rendered(overlay) if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Labels and spec of every kind of pod, as (name, template)."""
    for each in rendered(overlay):
        spec = each.get("spec", {})
        if each["kind"] == "Deployment":
            yield each["metadata"]["name"], spec["template"]
        elif each["kind"] == "LeaderWorkerSet":
            yield "leader", spec["leaderWorkerTemplate"]["leaderTemplate"]
            yield "worker", spec["leaderWorkerTemplate"]["workerTemplate"]


def is_kubernetes_own(manifest: Manifest) -> bool:
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group == "networking.k8s.io"


def validate_custom(manifest: Manifest) -> bool:
    """Check against the definition of its kind, unknown fields included. Returns whether there is one."""
    group, _, version = manifest["apiVersion"].partition("/")
    file = SCHEMAS / f"{group}_{manifest['kind'].lower()}s.yaml"
    if not file.exists():
        return False
    jsonschema.validate(manifest, custom_schema(file, version))
    return True


@cache
def custom_schema(file: Path, version: str) -> Any:
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]  # large: the C parser
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == version)
    return _strict(schema)


def _strict(schema: Any) -> Any:
    """The schema with no further fields allowed, as the API server has it with strict validation."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("pattern"), str):  # Go's flags may follow the anchor, Python's may not
        closed["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")
    if isinstance(schema.get("properties"), dict):
        closed["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if schema["properties"].keys() >= {"apiVersion", "kind"}:
            closed["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_every_manifest(overlay: str) -> None:
    own = [each for each in rendered(overlay) if is_kubernetes_own(each)]
    assert {each["kind"] for each in own} >= {"Namespace", "Deployment", "Service", "NetworkPolicy"}
    for manifest in own:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_fit_their_definitions(overlay: str) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip(f"no definitions of custom resources in {SCHEMAS}")
    custom = [each for each in rendered(overlay) if not is_kubernetes_own(each)]
    unknown = {each["kind"] for each in custom if not validate_custom(each)}
    assert unknown <= {"LeaderWorkerSet", "ClientTrafficPolicy", "BackendTrafficPolicy"}


def test_a_wrong_manifest_is_noticed() -> None:
    broken = find("single", "HTTPRoute") | {"spec": {"rulez": []}}
    if SCHEMAS.is_dir():
        with pytest.raises(jsonschema.ValidationError, match="rulez"):
            validate_custom(broken)
    deployment = find("single", "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            deployment | {"spec": deployment["spec"] | {"replicaz": 2}}, KUBERNETES, strict=True
        )


def variables(overlay: str) -> dict[str, str]:
    """The gate's environment, from its ConfigMap and from Secrets."""
    container = find(overlay, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (source,) = container["envFrom"]
    values: dict[str, str] = find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    return values | {each["name"]: "secret" for each in container.get("env", ())}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_gate_gets_valid_settings_and_files_where_they_say(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables(overlay).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    pod = find(overlay, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (settings.host, ports) == ("0.0.0.0", {"http": settings.port, "metrics": settings.metrics_port})
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    for file in (settings.accounts, settings.signing_key_file, settings.noise_secret_file, settings.psm):
        assert file is None or any(str(file).startswith(folder) for folder in mounted), file
    assert {"/tmp", "/home/smoothgate"} <= set(mounted)
    # A Service named smoothgate would set SMOOTHGATE_PORT to `tcp://...` in every pod of its namespace.
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_holds_the_whole_end(overlay: str) -> None:
    seconds = float(variables(overlay)["SMOOTHGATE_SHUTDOWN_TIMEOUT_SECONDS"])
    for name, template in pods(overlay):
        pod = template["spec"]
        pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        if name == "worker":
            assert seconds + 10 <= pause < pod["terminationGracePeriodSeconds"]
            continue
        arguments = [a for a in pod["containers"][0].get("args", ()) if a.startswith("--shutdown-timeout=")]
        drain = float(arguments[0].partition("=")[2]) if arguments else seconds
        after = 20 if arguments else 22
        assert pause + drain + after <= pod["terminationGracePeriodSeconds"] <= pause + drain + after + 30, (
            name
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_closed_pinned_and_bounded(overlay: str) -> None:
    for _, template in pods(overlay):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert re.fullmatch(r"smoothgate:(cpu|cuda)|\S+:v?\d+\.\d+\.\d+\S*", container["image"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector of labels takes these."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    return all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))


def admitted(overlay: str, labels: dict[str, str]) -> set[tuple[str, int | None]]:
    """(who, port) that the policies let in to a pod with these labels. A pod that none selects is open."""
    policies = [p["spec"] for p in rendered(overlay) if p["kind"] == "NetworkPolicy"]
    applying = [policy for policy in policies if selects(policy["podSelector"], labels)]
    assert applying, "open to all"
    found = set()
    for rule in (rule for policy in applying for rule in policy.get("ingress", ())):
        for peer in rule["from"]:
            (kind,) = peer
            who = "/".join(peer[kind]["matchLabels"].values())
            found |= {(f"{kind}:{who}", port["port"]) for port in rule.get("ports", [{"port": None}])}
    return found


GATEWAY = ("namespaceSelector:envoy-gateway-system", 8000)
MONITORING = ("namespaceSelector:monitoring", 9090)
GATE = ("podSelector:smoothgate", 8000)
PEERS = ("podSelector:vllm", None)


@pytest.mark.parametrize(
    ("overlay", "gate", "vllm"),
    [
        ("cpu-demo", set(), None),
        ("single", {GATEWAY, MONITORING}, None),
        ("split", {GATEWAY, MONITORING}, {GATE, MONITORING}),
        ("split-multihost", {GATEWAY, MONITORING}, {GATE, MONITORING, PEERS}),
    ],
)
def test_only_who_must_gets_in(
    overlay: str, gate: set[tuple[str, int | None]], vllm: set[tuple[str, int | None]] | None
) -> None:
    for name, template in pods(overlay):
        expected = gate if name == "smoothgate" else vllm
        assert admitted(overlay, template["metadata"]["labels"]) == expected, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_and_ports_find_pods(overlay: str) -> None:
    templates = list(pods(overlay))
    for each in rendered(overlay):
        selector = each.get("spec", {}).get("selector")
        if selector is None or each["kind"] not in (
            "Service",
            "PodDisruptionBudget",
            "PodMonitor",
            "Deployment",
        ):
            continue
        wanted = {"matchLabels": selector} if each["kind"] == "Service" else selector
        chosen = [t for _, t in templates if selects(wanted, t["metadata"]["labels"])]
        assert chosen, f"{each['kind']} {each['metadata']['name']} selects nothing"
        if each["kind"] == "Service":
            names = {p["name"] for t in chosen for c in t["spec"]["containers"] for p in c["ports"]}
            assert {p["targetPort"] for p in each["spec"]["ports"]} <= names


@pytest.mark.parametrize("overlay", ["split", "split-multihost"])
def test_vllm_takes_embeddings_and_no_pixel_under_the_name_that_gates_ask_for(overlay: str) -> None:
    gate = variables(overlay)
    assert gate["SMOOTHGATE_ENGINE_URL"] == "http://vllm:8000"
    for name, template in pods(overlay):
        if name == "smoothgate":
            continue
        container = template["spec"]["containers"][0]
        needed = {"--enable-mm-embeds", "--enable-prompt-embeds", '--limit-mm-per-prompt={"image":0}'}
        assert needed <= set(container["args"])
        assert container["args"][0] == gate["SMOOTHGATE_MODEL"]
        assert f"--served-model-name={gate['SMOOTHGATE_SERVED_MODEL_NAME']}" in container["args"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        if name != "worker":
            assert environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "300"
            assert "VLLM_API_KEY" in environment
        assert {"mountPath": "/dev/shm", "name": "shm"} in container["volumeMounts"]


def test_the_gateway_outwaits_the_gate() -> None:
    settings = Settings(_env_file=None)
    rules = {rule["name"]: rule for rule in find("split", "HTTPRoute")["spec"]["rules"]}
    timeouts = {name: rule["timeouts"] for name, rule in rules.items()}
    # A stream may go on for ever. What is silent ends, and the gate is the first to say so.
    assert timeouts["chat"] == {"request": "0s", "backendRequest": "0s"}
    assert _seconds(timeouts["api"]["request"]) > settings.request_timeout_seconds
    paths = {match["path"]["value"] for rule in rules.values() for match in rule["matches"]}
    assert paths == {"/v1/chat", "/v1", "/.well-known/jwks.json", "/docs", "/openapi.json"}


def test_envoy_gateway_is_told_the_limits_of_the_gate() -> None:
    settings = Settings(_env_file=None)
    client = find("split", "ClientTrafficPolicy")["spec"]["timeout"]["http"]
    assert _seconds(client["requestReceivedTimeout"]) == settings.body_timeout_seconds
    silence = max(settings.request_timeout_seconds, settings.engine_read_timeout_seconds)
    assert _seconds(client["streamIdleTimeout"]) > silence
    backend = find("split", "BackendTrafficPolicy")["spec"]
    assert backend["requestBuffer"] == {"limit": f"{settings.max_body_bytes // 2**20}Mi"}
    assert backend["retry"]["retryOn"]["httpStatusCodes"] == [503]
    for policy in ("ClientTrafficPolicy", "BackendTrafficPolicy"):
        for target in find("split", policy)["spec"]["targetRefs"]:
            find("split", target["kind"], target["name"])


def _seconds(duration: str) -> float:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(h|ms|m|s)", duration))


def test_the_autoscaler_asks_for_metrics_that_there_are_and_replicas_are_its_own() -> None:
    from prometheus_client import REGISTRY

    from smoothgate import metrics  # noqa: F401, registers them

    known = {
        sample for each in REGISTRY.collect() for sample in (each.name, f"{each.name}_total") if each.name
    }
    scaled = find("split", "ScaledObject")["spec"]
    asked = {
        name
        for trigger in scaled["triggers"]
        for name in re.findall(r"smoothgate_\w+", trigger["metadata"]["query"])
    }
    assert asked == {
        "smoothgate_queued_work",
        "smoothgate_reserved_work",
        "smoothgate_sampling_seconds_total",
    }
    assert asked <= known
    assert "replicas" not in find("split", "Deployment")["spec"]
    assert scaled["scaleTargetRef"] == {"name": find("split", "Deployment")["metadata"]["name"]}


def test_the_readme_names_every_topology_and_all_that_it_creates() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for overlay in OVERLAYS:
        assert f"kubectl apply -k deploy/overlays/{overlay}\n" in readme
        section = readme.split(f"deploy/overlays/{overlay}\n")[1].split("\n## ")[0]
        missing = {each["kind"] for each in rendered(overlay) if f"| {each['kind']} |" not in section}
        assert not missing, (overlay, missing)
