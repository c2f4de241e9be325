"""deploy/: valid to Kubernetes, HAProxy and Prometheus, and in agreement with the server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

import httpx
import pytest
import yaml

from serving.settings import Settings
from tests.serving.conftest import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
OLDEST_VERSION = "1.27.0"


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


@cache
def render(variant):
    """What ``kubectl apply -k`` would send, by kind."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, whose kustomize puts the files together; no cluster")
    command = [kubectl, "kustomize", str(KUBERNETES / variant)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {document["kind"]: document for document in documents(text)}


def validate(resource):
    """Against the schema of the oldest Kubernetes that is supported, and of the newest that is known."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for version in (OLDEST_VERSION, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def resources():
    return [path for path in sorted(BASE.glob("*.yaml")) if path.name != "kustomization.yaml"]


@pytest.mark.parametrize("path", resources(), ids=lambda path: path.stem)
def test_each_file_is_valid(path):
    for resource in documents(path.read_text()):
        validate(resource)


@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_each_variant_is_valid(variant):
    rendered = render(variant)
    kinds = {"ConfigMap", "Service", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert rendered.keys() == kinds
    for resource in rendered.values():
        validate(resource)


def test_a_wrong_field_is_found():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    deployment = yaml.safe_load((BASE / "deployment.yaml").read_text())
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment)


def test_the_gpu_variant_asks_for_a_gpu_and_scales_by_the_queue_alone():
    rendered = render("gpu")
    (container,) = rendered["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "registry.example.com/dhvt-gpu:1"
    assert {entry["name"] for entry in container["env"]} == {"DHVT_TOKEN", "BENTOML_HOME", "XDG_CACHE_HOME", "CUDA_CACHE_PATH"}
    assert [metric["type"] for metric in rendered["HorizontalPodAutoscaler"]["spec"]["metrics"]] == ["Pods"]


def settings_file():
    lines = (BASE / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def pod():
    return yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"]


def test_the_settings_are_the_servers():
    assert Settings.from_environ(settings_file()).max_in_flight == 64


def test_a_pod_has_the_time_that_its_drain_takes():
    settings = Settings.from_environ(settings_file())
    (container,) = pod()["containers"]
    wait_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = max(settings.request_timeout_s, settings.batch_timeout_s)
    assert pod()["terminationGracePeriodSeconds"] >= wait_s + drain_s + 5
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["dhvt-1"]
    assert int(compose["stop_grace_period"].removesuffix("s")) >= drain_s + 5


def test_a_pod_is_locked_down():
    (container,) = pod()["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["enableServiceLinks"] is False
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    assert {container[probe]["httpGet"]["path"] for probe in probes} == {"/readyz"}


def test_the_worst_requests_fit_into_a_pod():
    """The sum of docs/deploy.md: bodies, twice for forms, an archive's beginning each, decoding in two threads, processes."""
    settings = Settings.from_environ(settings_file())
    bodies = settings.max_in_flight * (2 * settings.max_upload_bytes + 8_000_000)
    decoding = 2 * 17 * settings.max_pixels
    (container,) = pod()["containers"]
    limits = container["resources"]["limits"]
    assert (limits["cpu"], limits["memory"]) == ("2", "4Gi")
    assert bodies + decoding + 700_000_000 < 4 * 2**30
    assert yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["dhvt-1"]["mem_limit"] == "4g"
    disk = settings.max_in_flight * settings.max_batch_upload_bytes
    assert pod()["volumes"][0] == {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}
    assert disk < 8 * 2**30


def test_idle_connections_are_closed_by_the_proxy_first():
    """Else a request could meet a connection that the server is closing."""
    (container,) = pod()["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["dhvt-1"]
    for arguments in (container["args"], compose["command"]):
        keep_alive_s = int(arguments[arguments.index("--timeout-keep-alive") + 1])
        purge_s = int(re.search(r"pool-purge-delay (\d+)s", (DEPLOY / "haproxy.cfg").read_text())[1])
        assert keep_alive_s >= 10 * purge_s


def test_haproxy_waits_for_longer_than_the_server():
    settings = Settings.from_environ(settings_file())
    text = (DEPLOY / "haproxy.cfg").read_text()
    assert int(re.search(r"^    timeout server (\d+)s", text, re.M)[1]) > settings.batch_timeout_s
    assert int(re.search(r"set-timeout server (\d+)s", text)[1]) > settings.request_timeout_s


def test_haproxy_takes_its_configuration():
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("needs haproxy")
    result = subprocess.run([haproxy, "-c", "-f", str(DEPLOY / "haproxy.cfg")], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_haproxy_refuses_reloads_and_metrics_in_any_spelling():
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("needs haproxy")
    ports = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    servers = {f"SERVER_{number}": "127.0.0.1:1" for number in (1, 2, 3)}  # where nothing listens
    environ = {"LISTEN_ADDRESS": ports[0], "ADMIN_ADDRESS": f"ipv4@{ports[1]}", "PATH": os.environ["PATH"], **servers}
    proxy = subprocess.Popen([haproxy, "-db", "-f", str(DEPLOY / "haproxy.cfg")], env=environ, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=5), base_url=f"http://{ports[0]}", timeout=20) as client:
            found = {path: client.get(path).status_code for path in ("/reload", "/relo%61d", "/%6detrics", "/info")}
    finally:
        proxy.terminate()
        proxy.wait(10)
    assert found == {"/reload": 404, "/relo%61d": 404, "/%6detrics": 404, "/info": 503}  # no server behind it


def test_a_server_that_cannot_be_replaced_goes_on(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncase "$*" in *" up "*) exit 1; esac\n')
    docker.chmod(0o755)
    sleep = tmp_path / "sleep"
    sleep.symlink_to("/bin/true")
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run([DEPLOY / "roll.sh"], env=environ, check=False, capture_output=True, text=True, timeout=20)
    assert (result.returncode, "dhvt-1 could not be replaced" in result.stderr) == (1, True)
    assert "dhvt-1 state ready" in (tmp_path / "log").read_text().splitlines()[-1]


def test_an_interrupted_roll_out_leaves_no_server_drained(tmp_path):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n')
    docker.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = subprocess.Popen([DEPLOY / "roll.sh"], env=environ, start_new_session=True)
    log = tmp_path / "log"
    while not log.exists() or "state drain" not in log.read_text():
        time.sleep(0.05)
    os.killpg(script.pid, signal.SIGTERM)  # also to its sleep, as Ctrl-C
    assert script.wait(20) == 130
    assert "dhvt-1 state ready" in log.read_text().splitlines()[-1]


def test_rules_name_metrics_that_the_server_has():
    source = (DEPLOY.parent / "serving" / "metrics.py").read_text()
    families = set(re.findall(r'"(dhvt_\w+)"', source))
    for path in (DEPLOY / "prometheus-rules.yaml", KUBERNETES / "prometheus-adapter.yaml"):
        named = set(re.findall(r"\b(dhvt_\w+?)(?:_bucket|_sum|_count)?\b", path.read_text())) - {"dhvt_queue_wait_seconds"}
        assert named
        assert named <= families


def test_the_autoscaler_reads_the_adapters_metric():
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    metrics = yaml.safe_load((BASE / "autoscaler.yaml").read_text())["spec"]["metrics"]
    assert metrics[0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert [metric["type"] for metric in metrics] == ["Pods", "Resource"]


@pytest.mark.parametrize(("command", "file"), [("check", "prometheus-rules.yaml"), ("test", "prometheus-rules-test.yaml")])
def test_prometheus_takes_the_rules(command, file):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, which Debian has in its package prometheus")
    result = subprocess.run([promtool, command, "rules", file], cwd=DEPLOY, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
