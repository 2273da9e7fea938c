"""Every topology, rendered by kubectl: it is what Kubernetes and the others accept, and fits together."""

import copy
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from types import MappingProxyType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from smoothgate.cli import extproc_command
from smoothgate.extproc.filter_server import LIVE, SERVICE
from smoothgate.settings import Settings
from tests.deploy.test_rules import names_of_service
from tests.programs import left_out, program

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
SCALED = ["split", "split-copy", "split-multihost"]
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
    plural = re.sub(r"([^aeiou])ys$", r"\1ies", f"{manifest['kind'].lower()}s")
    file = SCHEMAS / f"{group}_{plural}.yaml"
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
    assert unknown <= {
        "LeaderWorkerSet",
        "ClientTrafficPolicy",
        "BackendTrafficPolicy",
        "EnvoyProxy",
        "ReferenceGrant",
    }


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
    values: dict[str, str] = {}
    for source in container["envFrom"]:
        values |= find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
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


def most_replicas(manifests: Sequence[Manifest], name: str) -> int:
    """How many pods of this Deployment there may be, a rollout aside."""
    for each in manifests:
        if each["kind"] == "ScaledObject" and each["spec"]["scaleTargetRef"]["name"] == name:
            return int(each["spec"]["maxReplicaCount"])
    (deployment,) = (
        each for each in manifests if (each["kind"], each["metadata"]["name"]) == ("Deployment", name)
    )
    return int(deployment["spec"]["replicas"])


def locks_up(manifests: Sequence[Manifest]) -> list[str]:
    """Deployments of which two pods may need a volume that only one node can hold."""
    one_node = {
        each["metadata"]["name"]
        for each in manifests
        if each["kind"] == "PersistentVolumeClaim"
        and not {"ReadWriteMany", "ReadOnlyMany"} & set(each["spec"]["accessModes"])
    }
    found = []
    for each in manifests:
        if each["kind"] != "Deployment":
            continue
        volumes = each["spec"]["template"]["spec"].get("volumes", ())
        claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
        name = each["metadata"]["name"]
        alone = each["spec"]["strategy"].get("type") == "Recreate" and most_replicas(manifests, name) == 1
        if claims & one_node and not alone:
            found.append(name)
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_rollout_waits_for_a_volume_that_the_old_pod_holds(overlay: str) -> None:
    assert not locks_up(rendered(overlay))


def test_a_rollout_that_locks_up_is_noticed() -> None:
    manifests = copy.deepcopy(rendered("split"))
    for each in manifests:
        if each["kind"] == "PersistentVolumeClaim":
            each["spec"]["accessModes"] = ["ReadWriteOnce"]
    assert locks_up(manifests) == ["smoothgate", "vllm"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_rollout_has_failed_only_after_the_longest_end_and_the_longest_start(overlay: str) -> None:
    for each in rendered(overlay):
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        probe = pod["containers"][0]["startupProbe"]
        start = probe["periodSeconds"] * probe["failureThreshold"]
        # Kubernetes' default is 600 s.
        patience = each["spec"].get("progressDeadlineSeconds", 600)
        assert patience > pod["terminationGracePeriodSeconds"] + start, each["metadata"]["name"]


def test_vllm_rolls_without_a_free_gpu_and_never_all_of_it() -> None:
    spec = find("split", "Deployment", "vllm")["spec"]
    assert find("split", "ScaledObject", "vllm")["spec"]["minReplicaCount"] >= 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_closed_pinned_and_bounded(overlay: str) -> None:
    for _, template in pods(overlay):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            # Bodies of requests go to /tmp, and must not fill the disk of the node.
            if volume["name"].endswith("tmp"):
                assert volume["emptyDir"]["sizeLimit"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert re.fullmatch(
                r"smoothgate:(cpu|cuda)|smoothgate-(psm|checkpoint)|\S+:v?\d+\.\d+\.\d+\S*",
                container["image"],
            )
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector of labels takes these."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    return all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))


Peers = set[tuple[str, int | None]]


def allowed(overlay: str, labels: dict[str, str], direction: str) -> Peers:
    """(who, port) that the policies let in to a pod with these labels (`Ingress`), or that it may reach
    (`Egress`). A pod that no policy of this direction selects is open.
    """
    policies = [p["spec"] for p in rendered(overlay) if p["kind"] == "NetworkPolicy"]
    applying = [
        policy
        for policy in policies
        if direction in policy["policyTypes"] and selects(policy["podSelector"], labels)
    ]
    assert applying, "open to all"
    found = set()
    for rule in (rule for policy in applying for rule in policy.get(direction.lower(), ())):
        for peer in rule["from" if direction == "Ingress" else "to"]:
            who = "+".join(
                part["cidr"] if kind == "ipBlock" else "/".join(part["matchLabels"].values())
                for kind, part in peer.items()
            )
            found |= {(who, port["port"]) for port in rule.get("ports", [{"port": None}])}
    return found


GATEWAY = ("envoy-gateway-system", 8000)
MONITORING = ("monitoring", 9090)
GATE = ("smoothgate", 8000)
PEERS = ("vllm", None)
DNS = ("kube-system+kube-dns", 53)
COLLECTOR = ("monitoring", 4318)
VLLM = ("vllm", 8000)
HUB = {("0.0.0.0/0", 443), ("2000::/3", 443)}


@pytest.mark.parametrize(
    ("overlay", "gate", "vllm"),
    [
        ("cpu-demo", set(), None),
        ("single", {GATEWAY, MONITORING}, None),
        ("filter", {GATEWAY, MONITORING}, None),
        ("split", {GATEWAY, MONITORING}, {GATE, MONITORING}),
        ("split-copy", {GATEWAY, MONITORING}, {GATE, MONITORING}),
        ("split-multihost", {GATEWAY, MONITORING}, {GATE, MONITORING, PEERS}),
    ],
)
def test_only_who_must_gets_in(overlay: str, gate: Peers, vllm: Peers | None) -> None:
    for name, template in pods(overlay):
        expected = gate if name == "smoothgate" else vllm
        assert allowed(overlay, template["metadata"]["labels"], "Ingress") == expected, name


@pytest.mark.parametrize(
    ("overlay", "gate", "vllm"),
    [
        ("cpu-demo", set(), None),
        ("single", {DNS, COLLECTOR, *HUB}, None),
        ("filter", {DNS, COLLECTOR}, None),
        ("split", {DNS, COLLECTOR, VLLM, *HUB}, {DNS, *HUB}),
        ("split-copy", {DNS, COLLECTOR, VLLM, *HUB}, {DNS, *HUB}),
        ("split-multihost", {DNS, COLLECTOR, VLLM, *HUB}, {DNS, PEERS, *HUB}),
    ],
)
def test_pods_reach_only_what_they_must(overlay: str, gate: Peers, vllm: Peers | None) -> None:
    for name, template in pods(overlay):
        expected = gate if name == "smoothgate" else vllm
        assert allowed(overlay, template["metadata"]["labels"], "Egress") == expected, name


@pytest.mark.parametrize("overlay", ["single", "split"])
@pytest.mark.parametrize(
    "address", ["169.254.169.254", "10.96.0.1", "172.20.0.1", "192.168.1.1", "100.64.0.1"]
)
def test_the_way_to_the_hub_leads_to_no_neighbour(overlay: str, address: str) -> None:
    (rule,) = find(overlay, "NetworkPolicy", "to-hub")["spec"]["egress"]
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    for block in blocks:
        inside = ip_address(address) in ip_network(block["cidr"])
        assert not inside or any(ip_address(address) in ip_network(each) for each in block["except"])


def edited(overlay: str, changes: Manifest, files: Mapping[str, str] = MappingProxyType({})) -> str:
    """What `kubectl kustomize` makes of an operator's own overlay on top of this one, with these files."""
    with TemporaryDirectory(dir=DEPLOY) as folder:
        changes = changes | {"resources": [f"../overlays/{overlay}", *changes.get("resources", ())]}
        for name, text in {**files, "kustomization.yaml": yaml.safe_dump(changes)}.items():
            (Path(folder) / name).write_text(text)
        result = _run(program("kubectl", package="1.21 or newer"), "kustomize", folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("overlay", "name", "variable"),
    [
        ("single", "psm", "SMOOTHGATE_PSM"),
        ("split", "psm", "SMOOTHGATE_PSM"),
        ("split-copy", "psm", "SMOOTHGATE_PSM"),
        ("split-multihost", "psm", "SMOOTHGATE_PSM"),
        ("filter", "psm", "SMOOTHGATE_PSM"),
        ("filter", "checkpoint", "SMOOTHGATE_MODEL"),
    ],
)
def test_what_the_gate_reads_is_that_of_an_image_with_a_digest(
    overlay: str, name: str, variable: str
) -> None:
    """It reads what the init container copied, and an overlay names that by its digest."""
    pod = find(overlay, "Deployment")["spec"]["template"]["spec"]
    (copying,) = (each for each in pod["initContainers"] if each["name"] == name)
    (mount,) = copying["volumeMounts"]
    assert copying["command"][-1].rstrip("/") == mount["mountPath"]
    (read,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == mount["name"])
    assert (read["mountPath"], read["readOnly"]) == (variables(overlay)[variable], True)
    steps = (ROOT / f"docker/Dockerfile.{name}").read_text().splitlines()
    assert f"COPY {name}/ {copying['command'][-2].rstrip('.')}" in steps
    assert f"!{name}" in (ROOT / f"docker/Dockerfile.{name}.dockerignore").read_text().splitlines()
    digest = f"sha256:{'0' * 64}"
    image = {"name": f"smoothgate-{name}", "newName": f"registry.example.com/{name}", "digest": digest}
    assert f"image: registry.example.com/{name}@{digest}\n" in edited(overlay, {"images": [image]})


@pytest.mark.parametrize(
    ("overlay", "deployments"), [("single", ["smoothgate"]), ("split", ["smoothgate", "vllm"])]
)
def test_a_checkpoint_may_come_as_an_image_for_gates_and_vllm(
    overlay: str, deployments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An operator's own volume, as for a store, stays.
    own = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "store"}}
    changes = {"components": ["../components/checkpoint-image"], "resources": ["own.yaml"]}
    made = list(yaml.safe_load_all(edited(overlay, changes, {"own.yaml": yaml.safe_dump(own)})))
    claims = [each["metadata"]["name"] for each in made if each["kind"] == "PersistentVolumeClaim"]
    assert claims == ["store"]
    for each in filter(is_kubernetes_own, made):
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    (model,) = (each["data"] for each in made if each["metadata"]["name"].startswith("smoothgate-model-"))
    for name, value in model.items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).model_revision is None, "a folder has none"
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in made
        if each["kind"] == "Deployment"
    }
    assert sorted(pods) == deployments
    for pod in pods.values():
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert all("persistentVolumeClaim" not in each for each in volumes.values())
        container = pod["containers"][0]
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        (copying,) = (each for each in pod["initContainers"] if each["name"] == "checkpoint")
        assert {each["name"] for each in copying["volumeMounts"]} == {mounts[model["SMOOTHGATE_MODEL"]]}
        # The kubelet adds up what all volumes on the node's disk hold.
        on_disk = (each["emptyDir"] for each in volumes.values() if "emptyDir" in each)
        sizes = [
            int(each["sizeLimit"].removesuffix("Gi"))
            for each in on_disk
            if each.get("sizeLimit", "").endswith("Gi") and each.get("medium") != "Memory"
        ]
        assert int(container["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi")) >= sum(sizes)


def test_the_filter_is_found_and_asked_for_its_health_by_grpc() -> None:
    container = find("filter", "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == [extproc_command.extproc.__name__]
    port = Settings(_env_file=None, port=variables("filter")["SMOOTHGATE_PORT"]).port
    probes = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"port": port, "service": LIVE},
        "liveness": {"port": port, "service": LIVE},
        "readiness": {"port": port, "service": SERVICE},
    }
    (service,) = find("filter", "Service")["spec"]["ports"]
    assert service["appProtocol"] == "kubernetes.io/h2c"
    # The policy in docs/deploy.md leads to it.
    guide = (ROOT / "docs/deploy.md").read_text()
    assert f"backendRefs: [{{name: smoothgate, port: {service['port']}}}]" in guide


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
            names = {p["name"] for t in chosen for c in t["spec"]["containers"] for p in c.get("ports", ())}
            assert {p["targetPort"] for p in each["spec"]["ports"]} <= names


def arguments(overlay: str, container: Manifest) -> list[str]:
    """Of a container, with its variables put in as Kubernetes does."""
    known = {}
    for each in container.get("env", ()):
        reference = each.get("valueFrom", {}).get("configMapKeyRef")
        if reference:
            known[each["name"]] = find(overlay, "ConfigMap", reference["name"])["data"][reference["key"]]
        elif "value" in each:
            known[each["name"]] = each["value"]
    return [
        re.sub(r"\$\((\w+)\)", lambda found: str(known.get(found[1], found[0])), each)
        for each in container["args"]
    ]


@pytest.mark.parametrize("overlay", ["split", "split-multihost"])
def test_vllm_takes_embeddings_and_no_pixel_under_the_name_that_gates_ask_for(overlay: str) -> None:
    gate = variables(overlay)
    assert gate["SMOOTHGATE_ENGINE_URL"] == "http://vllm:8000"
    for name, template in pods(overlay):
        if name == "smoothgate":
            continue
        container = template["spec"]["containers"][0]
        limits = '--limit-mm-per-prompt={"image":0,"video":0}'
        assert {"--enable-mm-embeds", "--enable-prompt-embeds", limits} <= set(container["args"])
        given = arguments(overlay, container)
        assert given[0] == gate["SMOOTHGATE_MODEL"]
        assert f"--revision={gate['SMOOTHGATE_MODEL_REVISION']}" in given
        assert f"--served-model-name={gate['SMOOTHGATE_SERVED_MODEL_NAME']}" in given
        # From the one place where they stand: whoever changes the model there has changed it everywhere.
        # What else gates are told does not start vLLM again.
        assert not any(gate["SMOOTHGATE_MODEL"] in each for each in container["args"])
        sources = {
            each["valueFrom"]["configMapKeyRef"]["name"]
            for each in container["env"]
            if "configMapKeyRef" in each.get("valueFrom", {})
        }
        assert [re.sub(r"-\w+$", "", source) for source in sources] == ["smoothgate-model"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        if name != "worker":
            assert environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "300"
            assert "VLLM_API_KEY" in environment
        assert {"mountPath": "/dev/shm", "name": "shm"} in container["volumeMounts"]


@pytest.mark.parametrize("overlay", ["split", "split-multihost"])
def test_nothing_but_nginx_listens_where_vllm_can_be_reached(overlay: str) -> None:
    for name, template in pods(overlay):
        if name in ("smoothgate", "worker"):
            continue
        vllm, front = template["spec"]["containers"]
        assert "--host=127.0.0.1" in vllm["args"]
        (port,) = (each.partition("=")[2] for each in vllm["args"] if each.startswith("--port="))
        assert "ports" not in vllm
        ports = {each["name"]: each["containerPort"] for each in front["ports"]}
        assert ports == {"http": 8000, "metrics": 9090}
        configuration = find(
            overlay,
            "ConfigMap",
            next(
                volume["configMap"]["name"]
                for volume in template["spec"]["volumes"]
                if volume["name"] == "front"
            ),
        )["data"]["front.conf"]
        assert set(re.findall(r"listen (\d+);", configuration)) == {"8000", "9090"}
        assert f"server 127.0.0.1:{port};" in configuration
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert vllm[probe]["httpGet"]["port"] == ports["http"]
        # It lets nothing in any more before vLLM ends, and waits for vLLM's last answer.
        pause, longer = (each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in (front, vllm))
        assert 5 < pause < longer
        (drain,) = (a.partition("=")[2] for a in vllm["args"] if a.startswith("--shutdown-timeout="))
        (waits,) = re.findall(r"worker_shutdown_timeout (\d+)s;", configuration)
        assert float(drain) < float(waits) <= template["spec"]["terminationGracePeriodSeconds"] - pause


def test_the_check_of_the_network_tells_what_is_open() -> None:
    pod = yaml.safe_load((DEPLOY / "network-check.yaml").read_text())
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    script, *targets = pod["spec"]["containers"][0]["args"]
    for target in targets:
        name, namespace, _ = target.split(".")
        port = int(target.rpartition(":")[2])
        assert port == find("split", "Service", name)["spec"]["ports"][0]["port"]
        assert namespace == find("split", "Namespace")["metadata"]["name"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reached = f"127.0.0.1:{listening.getsockname()[1]}"
        told = _run(sys.executable, "-c", script, reached)
        assert told.returncode == 1
        assert "IS OPEN" in told.stdout
    told = _run(sys.executable, "-c", script, reached)
    assert (told.returncode, told.stdout) == (0, f"{reached} is closed\n")
    told = _run(sys.executable, "-c", script, "nowhere.invalid:80")
    assert told.returncode == 1
    assert "nothing was tried" in told.stdout


def test_the_gateway_outwaits_the_gate() -> None:
    settings = Settings(_env_file=None)
    rules = {rule["name"]: rule for rule in find("split", "HTTPRoute")["spec"]["rules"]}
    timeouts = {name: rule["timeouts"] for name, rule in rules.items()}
    # A stream may go on for ever. What is silent ends, and the gate is the first to say so.
    assert timeouts["chat"] == {"request": "0s", "backendRequest": "0s"}
    assert _seconds(timeouts["api"]["request"]) > settings.request_timeout_seconds
    paths = {match["path"]["value"] for rule in rules.values() for match in rule["matches"]}
    assert paths == {"/v1/chat", "/v1", "/.well-known/jwks.json", "/docs", "/openapi.json"}


def test_who_asks_without_tls_is_sent_to_it_and_to_nothing_else() -> None:
    gateway = find("split", "Gateway")["spec"]
    listeners = {each["name"]: (each["protocol"], each["port"]) for each in gateway["listeners"]}
    assert listeners == {"https": ("HTTPS", 443), "http": ("HTTP", 80)}
    routes = {
        each["metadata"]["name"]: each["spec"] for each in rendered("split") if each["kind"] == "HTTPRoute"
    }
    for name, route in routes.items():
        (parent,) = route["parentRefs"]
        (host,) = {each["hostname"] for each in gateway["listeners"]}
        assert route["hostnames"] == [host]
        assert parent == {"name": "smoothgate", "sectionName": "https" if name == "smoothgate" else "http"}
    (redirecting,) = routes["smoothgate-to-https"]["rules"]
    assert "backendRefs" not in redirecting
    (filter_,) = redirecting["filters"]
    assert filter_["requestRedirect"] == {"scheme": "https", "statusCode": 301}
    for rule in routes["smoothgate"]["rules"]:
        (filter_,) = rule["filters"]
        (header,) = filter_["responseHeaderModifier"]["set"]
        assert header["name"] == "Strict-Transport-Security"


def test_the_log_believes_proxies_of_the_cluster_alone() -> None:
    trusted = [ip_network(each) for each in variables("split")["FORWARDED_ALLOW_IPS"].split(",")]
    assert all(any(ip_address(proxy) in each for each in trusted) for proxy in ("10.1.2.3", "172.20.0.1"))
    assert not any(each.is_global for each in trusted)


def test_the_proxies_of_envoy_gateway_are_bounded_and_the_gateway_asks_for_them() -> None:
    reference = find("split", "Gateway")["spec"]["infrastructure"]["parametersRef"]
    proxy = find("split", reference["kind"], reference["name"])["spec"]["provider"]["kubernetes"]
    assert proxy["envoyDeployment"]["container"]["resources"]["limits"] == {"memory": "4Gi"}


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


def queries(overlay: str) -> list[str]:
    return [
        trigger["metadata"]["query"]
        for each in rendered(overlay)
        if each["kind"] == "ScaledObject"
        for trigger in each["spec"]["triggers"]
    ]


def test_the_autoscaler_asks_for_metrics_that_there_are_and_replicas_are_its_own() -> None:
    asked = {name for query in queries("split") for name in re.findall(r"smoothgate_\w+", query)}
    assert asked == {"smoothgate_queued_seconds", "smoothgate_sampling_seconds_total"}
    assert asked <= names_of_service()
    for name in ("smoothgate", "vllm"):
        scaled = find("split", "ScaledObject", name)["spec"]
        assert scaled["scaleTargetRef"] == {"name": find("split", "Deployment", name)["metadata"]["name"]}
        assert "replicas" not in find("split", "Deployment", name)["spec"]
        assert scaled["minReplicaCount"] >= 2
        # Without Prometheus nothing shrinks.
        assert scaled["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert scaled["fallback"]["replicas"] >= scaled["minReplicaCount"]


def test_the_autoscaler_of_vllm_asks_for_metrics_that_vllm_has() -> None:
    package = find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(package.origin).parent / "v1/metrics/loggers.py").read_text()
    asked = {name for query in queries("split") for name in re.findall(r"vllm:\w+", query)}
    assert asked == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    assert all(f'name="{name}"' in source for name in asked)


def test_the_pods_of_a_vllm_across_machines_know_their_address_for_each_other() -> None:
    """The leader's API is on loopback, which the worker cannot reach."""
    for name, template in pods("split-multihost"):
        if name != "smoothgate":
            environment = {each["name"]: each for each in template["spec"]["containers"][0]["env"]}
            address = environment["VLLM_HOST_IP"]["valueFrom"]["fieldRef"]["fieldPath"]
            assert address == "status.podIP", name


def test_a_vllm_across_machines_is_scaled_as_what_it_is() -> None:
    target = find("split-multihost", "ScaledObject", "vllm")["spec"]["scaleTargetRef"]
    scaled = find("split-multihost", target["kind"], target["name"])
    assert scaled["apiVersion"] == target["apiVersion"]
    assert "replicas" not in scaled["spec"]


@pytest.mark.parametrize("overlay", SCALED)
def test_an_autoscaler_asks_about_its_own_namespace(overlay: str) -> None:
    namespace = find(overlay, "Namespace", find(overlay, "Deployment")["metadata"]["namespace"])
    name = namespace["metadata"]["name"]
    assert len(queries(overlay)) == 4
    for query in queries(overlay):
        assert re.findall(r'namespace="([^"]*)"', query) == [name], query


def test_the_route_of_the_first_copy_may_lead_to_the_second() -> None:
    grant = find("split-copy", "ReferenceGrant")["spec"]
    route, service = find("split", "HTTPRoute"), find("split-copy", "Service")
    assert grant["from"] == [
        {
            "group": route["apiVersion"].partition("/")[0],
            "kind": "HTTPRoute",
            "namespace": route["metadata"]["namespace"],
        }
    ]
    assert grant["to"] == [{"group": "", "kind": "Service", "name": service["metadata"]["name"]}]
    assert service["metadata"]["namespace"] != route["metadata"]["namespace"]
    # It has no way in of its own, and no second set of alerts.
    kinds = {each["kind"] for each in rendered("split-copy")}
    assert not kinds & {"Gateway", "HTTPRoute", "ClientTrafficPolicy", "EnvoyProxy", "PrometheusRule"}


def test_the_documented_shift_of_traffic_names_the_second_copy() -> None:
    """The patch in docs/deploy.md, applied to `split`."""
    guide = (ROOT / "docs/deploy.md").read_text()
    (found,) = re.findall(r"\n( +patches:\n +- target: {kind: HTTPRoute, .*?)\n\n", guide, re.DOTALL)
    made = edited("split", yaml.safe_load(dedent(found)))
    (route,) = (
        each
        for each in yaml.safe_load_all(made)
        if (each["kind"], each["metadata"]["name"]) == ("HTTPRoute", "smoothgate")
    )
    copy_of = find("split-copy", "Service")["metadata"]
    for rule in route["spec"]["rules"]:
        first, second = rule["backendRefs"]
        assert (first["name"], first["weight"] + second["weight"]) == ("smoothgate", 100)
        assert (second["name"], second["namespace"]) == (copy_of["name"], copy_of["namespace"])
    if SCHEMAS.is_dir():
        validate_custom(route)


def test_the_documented_way_to_a_redis_is_one() -> None:
    """The patch and the policy in docs/deploy.md, applied to `split`."""
    guide = (ROOT / "docs/deploy.md").read_text().partition("**Limits of clients for all gates")[2]
    section = guide.partition("## What to watch")[0]
    overlay, policy = (dedent(part) for part in re.findall(r"\n((?: {4}.*\n|\n(?= {4}[^#]))+)", section))
    told = edited("split", yaml.safe_load(overlay), {"to-redis.yaml": policy})
    made = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(told)}
    kubernetes_validate.validate(made["NetworkPolicy", "to-redis"], KUBERNETES, strict=True)
    (gate,) = made["Deployment", "smoothgate"]["spec"]["template"]["spec"]["containers"]
    given = {each["name"] for each in gate["env"]}
    assert given == {"SMOOTHGATE_ENGINE_API_KEY", "SMOOTHGATE_LIMITS_URL"}


def test_the_readme_names_every_topology_and_all_that_it_creates() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for overlay in OVERLAYS:
        assert f"kubectl apply -k deploy/overlays/{overlay}\n" in readme
        section = readme.split(f"deploy/overlays/{overlay}\n")[1].split("\n## ")[0]
        missing = {each["kind"] for each in rendered(overlay) if f"| {each['kind']} |" not in section}
        assert not missing, (overlay, missing)
