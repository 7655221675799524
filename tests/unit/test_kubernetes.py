"""deploy/kubernetes and deploy/systemd: what is there starts what it should, and is ended well."""

import argparse
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from sglang_router.router_args import RouterArgs

from sglang_qwen3next_eagle3 import launch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
UNIT = ROOT / "deploy" / "systemd" / "sglang-qwen3next-eagle3.service"
FOLDERS = ["base", "tp4"]
GPUS = {"base": 1, "tp4": 4}


def built(folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What kustomize makes of a folder, by kind and name; of its tools those that are used here."""
    data = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in data["resources"]:
        path = KUBERNETES / folder / name
        if path.is_dir():
            found |= built(path.resolve().name)
            continue
        for one in yaml.safe_load_all(path.read_text()):
            found[one["kind"], one["metadata"]["name"]] = one
    for patch in data.get("patches", []):
        one = found[patch["target"]["kind"], patch["target"]["name"]]
        for change in yaml.safe_load(patch["patch"]):
            assert change["op"] == "replace"
            *way, last = (
                int(part) if part.isdigit() else part for part in change["path"].split("/")[1:]
            )
            at: Any = one
            for part in way:
                at = at[part]
            assert at[last] is not None
            at[last] = change["value"]
    return found


def pod(folder: str, kind: str = "StatefulSet", name: str = "server") -> dict[str, Any]:
    spec: dict[str, Any] = built(folder)[kind, name]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_resource_is_one_that_kubernetes_takes(folder: str) -> None:
    for resource in built(folder).values():
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_a_resource_that_it_does_not_take_would_be_seen() -> None:
    broken = built("base")["StatefulSet", "server"]
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpget"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_builds_the_same(folder: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = {
        (one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(printed) if one
    }
    ours = built(folder)
    assert set(theirs) == set(ours)
    for key, resource in ours.items():
        if key[0] in ("StatefulSet", "Deployment"):
            assert theirs[key]["spec"]["template"]["spec"] == resource["spec"]["template"]["spec"]
        if key[0] != "Namespace":
            assert theirs[key]["metadata"]["namespace"] == "sglang"


@pytest.mark.parametrize("folder", FOLDERS)
def test_launch_takes_the_arguments_and_fits_the_gpus(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (server,) = pod(folder)["containers"]
    assert launch.main([*server["args"], "--dry-run"]) == 0
    printed = capsys.readouterr().out
    ranks = re.search(r"--tp (\d+)", printed)
    assert int(ranks[1] if ranks else 1) == GPUS[folder]
    for part in ("requests", "limits"):
        assert server["resources"][part]["nvidia.com/gpu"] == GPUS[folder]
    port = re.search(r"--port (\d+)", printed)
    assert port is not None
    assert server["ports"] == [{"name": "http", "containerPort": int(port[1])}]
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    for key in ("api-key", "admin-api-key"):
        assert f"_API_KEY_FILE={mounts['keys']}/{key}" in printed


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_replica_has_what_the_image_needs(folder: str) -> None:
    spec = pod(folder)
    (server,) = spec["containers"]
    mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
    image = (ROOT / "Dockerfile").read_text()
    assert {"/models", "/caches"} <= mounts
    assert 'VOLUME ["/models", "/caches"]' in image
    assert "USER 1000:1000" in image
    assert spec["securityContext"]["runAsUser"] == 1000
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert "/tmp" in mounts
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    claims = built(folder)["StatefulSet", "server"]["spec"]["volumeClaimTemplates"]
    named = {*volumes, *(claim["metadata"]["name"] for claim in claims)}
    assert {mount["name"] for mount in server["volumeMounts"]} == named
    assert "secretKeyRef" not in str(spec), "keys are files, not variables"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_dead_scheduler_is_told_and_loading_is_waited_for(folder: str) -> None:
    (server,) = pod(folder)["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/health", "port": "http"}
        # SGLang gives itself 20 seconds to make a token.
        assert server[probe]["timeoutSeconds"] > 20
    starting = server["startupProbe"]
    assert starting["periodSeconds"] * starting["failureThreshold"] >= 1800
    living, ready = server["livenessProbe"], server["readinessProbe"]
    assert (
        living["periodSeconds"] * living["failureThreshold"]
        > ready["periodSeconds"] * ready["failureThreshold"]
    ), "it is taken out of the list before it is ended"


@pytest.mark.parametrize(("kind", "name"), [("StatefulSet", "server"), ("Deployment", "router")])
def test_what_is_ended_has_time_to_finish(kind: str, name: str) -> None:
    spec = pod("base", kind, name)
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    waits = int(command[1])
    assert command[0] == "sleep"
    assert spec["terminationGracePeriodSeconds"] >= waits + 300
    if name == "server":
        router = words(pod("base", "Deployment", "router")["containers"][0]["args"])
        every = int(router["--health-check-interval-secs"])
        assert waits >= every


def words(args: list[str]) -> dict[str, str]:
    flags = [word for word in args if word.startswith("--")]
    return {
        flag: args[args.index(flag) + 1]
        for flag in flags
        if args.index(flag) + 1 < len(args) and not args[args.index(flag) + 1].startswith("--")
    }


def test_the_router_finds_the_servers_and_takes_its_flags() -> None:
    parser = argparse.ArgumentParser()
    RouterArgs.add_cli_args(parser)
    args = pod("base", "Deployment", "router")["containers"][0]["args"]
    taken = RouterArgs.from_cli_args(parser.parse_args(args))
    labels = built("base")["StatefulSet", "server"]["spec"]["template"]["metadata"]["labels"]
    assert taken.selector.items() <= labels.items()
    assert taken.service_discovery_port == 30000
    assert taken.service_discovery_namespace == "sglang"
    assert not taken.disable_retries
    ports = pod("base", "Deployment", "router")["containers"][0]["ports"]
    assert {port["containerPort"] for port in ports} == {taken.port, taken.prometheus_port}
    kustomization = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert kustomization["namespace"] == taken.service_discovery_namespace


@pytest.mark.parametrize("folder", FOLDERS)
def test_nobody_reaches_a_pod_but_who_is_named(folder: str) -> None:
    resources = built(folder)
    allowed = {}
    for kind, name in [("StatefulSet", "server"), ("Deployment", "router")]:
        labels = resources[kind, name]["spec"]["template"]["metadata"]["labels"]
        policy = resources["NetworkPolicy", name]["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert policy["policyTypes"] == ["Ingress"]
        (container,) = resources[kind, name]["spec"]["template"]["spec"]["containers"]
        names = {port["name"] for port in container["ports"]}
        for rule in policy["ingress"]:
            ports = {port["port"] for port in rule["ports"]}
            assert ports <= names
            for peer in rule["from"]:
                ((where, selector),) = peer.items()
                (who,) = selector["matchLabels"].values()
                allowed[name, where.removesuffix("Selector"), who] = ports
    assert allowed == {
        ("server", "pod", "router"): {"http"},
        ("server", "namespace", "monitoring"): {"http"},
        ("router", "namespace", "ingress-nginx"): {"http"},
        ("router", "namespace", "monitoring"): {"metrics"},
    }


def test_selectors_select_what_is_there() -> None:
    resources = built("base")
    labels = [
        resource["spec"]["template"]["metadata"]["labels"]
        for resource in resources.values()
        if "template" in resource["spec" if "spec" in resource else "metadata"]
    ]
    assert len(labels) == 2
    for (kind, name), resource in resources.items():
        spec = resource.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        selector = selector.get("matchLabels", selector)
        if kind not in ("Namespace",) and selector:
            assert sum(selector.items() <= one.items() for one in labels) == 1, (kind, name)
    budget = resources["PodDisruptionBudget", "server"]["spec"]
    replicas = resources["StatefulSet", "server"]["spec"]["replicas"]
    assert 0 < budget["maxUnavailable"] < replicas


def unit() -> str:
    return UNIT.read_text(encoding="utf-8")


def test_launch_takes_the_command_of_the_unit(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", unit(), re.M)
    command = command.replace("${PROFILE}", "h200-fp8").replace("${CREDENTIALS_DIRECTORY}", "/c")
    program, verb, *args = shlex.split(command)
    assert (program.rpartition("/")[2], verb) == ("sglang-qwen3next-eagle3", "launch")
    assert launch.main([*args, "--dry-run"]) == 0
    assert "_API_KEY_FILE=/c/api-key" in capsys.readouterr().out
    loaded = re.findall(r"^LoadCredential=([\w-]+):", unit(), re.M)
    assert loaded == ["api-key", "admin-api-key"]


def test_the_unit_is_not_started_again_where_a_person_has_to_mend_it() -> None:
    assert "RestartPreventExitStatus=2" in unit()
    assert "Restart=on-failure" in unit()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program and a user that are on this machine."""
    here = re.sub(r"^(User|Group)=.*\n", "", unit(), flags=re.M)
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", here, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_router_s_image_has_the_release_that_was_tried() -> None:
    image = (ROOT / "deploy" / "router" / "Dockerfile").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"pip install .* (sglang-router==\S+)$", image, re.M)
    assert pinned in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "USER 1000:1000" in image
    assert pod("base", "Deployment", "router")["securityContext"]["runAsUser"] == 1000
