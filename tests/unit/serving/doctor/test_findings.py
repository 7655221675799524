"""Each thing that can be wrong with a machine is found, with its level and a way out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.findings import Finding, Level
from sglang_qwen3next_eagle3.overlay import environment
from sglang_qwen3next_eagle3.serving import preflight, profile
from sglang_qwen3next_eagle3.serving.command_line import Launch
from sglang_qwen3next_eagle3.serving.doctor import findings
from sglang_qwen3next_eagle3.serving.doctor.findings import Needs
from sglang_qwen3next_eagle3.serving.doctor.host import Cache, Host, Space
from sglang_qwen3next_eagle3.serving.gpus import GpuProcess, Gpus
from sglang_qwen3next_eagle3.serving.keys import Keys
from tests.support.hosts import GIB, gpus, h200

FOUR = Needs(gpus=4)


def troubles(host: Host, needs: Needs | None = FOUR) -> list[Finding]:
    return [found for found in findings.of_host(host, needs) if found.level != "note"]


def with_gpus(**changed: Any) -> Host:
    return h200(gpus=gpus(4, **changed))


def one_of_them(**changed: Any) -> Host:
    good = gpus(4)
    odd = replace(good.found[2], **changed)
    return h200(gpus=replace(good, found=(*good.found[:2], odd, good.found[3])))


@pytest.mark.parametrize("needs", [None, FOUR, Needs(gpus=1, fp8=True), Needs(on_gpu=False)])
def test_a_good_machine_has_no_trouble(needs: Needs | None) -> None:
    assert troubles(h200(), needs) == []
    told = [found.text for found in findings.of_host(h200(), FOUR)]
    assert "4x NVIDIA H200, 140.4 GiB, compute capability 9.0, driver 580.159.04" in told
    assert "all 4 GPUs are linked by NVLink" in told


UNLINKED = replace(
    gpus(4), links=dict.fromkeys([(a, b) for a in range(4) for b in range(4)], "SYS")
)
BROKEN = Gpus(trouble="NVML: mismatch")
CASES: dict[str, tuple[Host, Level, str, str, str]] = {
    "no GPU": (h200(gpus=Gpus(), has_device=False), "error", "gpus", "no NVIDIA GPU", "demo"),
    "no nvidia-smi": (h200(gpus=Gpus()), "warning", "gpus", "no nvidia-smi", "utility"),
    "broken": (h200(gpus=BROKEN), "error", "gpus", "mismatch", "nvidia-smi"),
    "too few": (h200(2), "error", "gpus", "4 GPUs are asked for, 2 can be seen", "--tp 2"),
    "masked": (
        h200(environment={"CUDA_VISIBLE_DEVICES": "0,1"}),
        "error", "gpus", "2 of 8 (CUDA_VISIBLE_DEVICES=0,1)", "unset CUDA_VISIBLE_DEVICES",
    ),
    "mixed": (one_of_them(name="NVIDIA H100"), "warning", "gpus", "differ", "CUDA_VISIBLE_DEVICES"),
    "old": (with_gpus(capability=(7, 0)), "error", "gpus", "compute capability 7.0", "H100"),
    "mig": (with_gpus(mig=True), "warning", "gpus", "MIG", "-mig 0"),
    "driver": (with_gpus(driver="570.1"), "error", "driver", "older than 580", "update"),
    "driver with compat": (
        h200(gpus=gpus(4, driver="570.1"), has_cuda_compat=True),
        "warning", "driver", "older than 580", "update",
    ),
    "shared GPU": (
        h200(gpus=replace(gpus(4), processes=(GpuProcess("GPU-1", 99, "python", 2048),))),
        "warning", "gpu-processes", "python 99 with 2.0 GiB on GPU 1", "-p 99",
    ),
    "uneven": (one_of_them(free_mib=60000), "error", "gpu-memory", "GPU 2 has 58.6", "end what"),
    "no link": (h200(gpus=UNLINKED), "warning", "nvlink", "not all", "topo -m"),
    "slowed": (one_of_them(throttled=("its temperature",)), "warning", "clocks", "GPU 2", "-i 2"),
    "ecc": (one_of_them(ecc_errors=3), "warning", "ecc", "GPU 2 had 3", "reset"),
    "shm": (
        h200(shm=Space(Path("/dev/shm"), 64 << 20, 64 << 20)),
        "warning", "shm", "64 MiB free of 64 MiB", "--shm-size",
    ),
    "container": (
        h200(limit=8 * GIB), "warning", "memory", "8.0 GiB of the container's limit", "--memory",
    ),
    "files": (h200(nofile=1024), "warning", "limits", "1024 files", "ulimit -n"),
    "proxy": (
        h200(environment={"HTTP_PROXY": "http://p:1", "NO_PROXY": "example.org,localhost"}),
        "warning", "proxies", "127.0.0.1 not", "NO_PROXY=example.org,localhost,127.0.0.1",
    ),
    "clock": (h200(now=1.5e9), "warning", "time", "2017-07-14", "set-ntp"),
    "read-only cache": (
        h200(caches=(Cache("Triton", Path("/c"), 1, 1, writable=False),)),
        "warning", "caches", "may not write to /c", "volume",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found(case: str) -> None:
    host, level, subject, seen, remedy = CASES[case]
    (found,) = troubles(host)
    assert (found.level, found.subject) == (level, subject)
    assert seen in found.text
    assert remedy in found.remedy
    assert found.means or level == "error", "what it leads to"


def test_the_gpus_that_are_meant_are_looked_at() -> None:
    hot = replace(gpus(8).found[6], throttled=("its temperature",))
    host = h200(gpus=replace(gpus(8), found=(*gpus(8).found[:6], hot, gpus(8).found[7])))
    assert troubles(host, Needs(gpus=4)) == []
    assert [found.subject for found in troubles(host, Needs(gpus=4, first=4))] == ["clocks"]
    assert [found.subject for found in troubles(host, Needs(gpus=4, step=2))] == ["clocks"]
    (few,) = troubles(h200(), Needs(gpus=4, first=6))
    assert "4 GPUs are asked for from GPU 6 on, 8 can be seen" in few.text
    assert few.remedy == "--tp 2"


@pytest.mark.parametrize(
    ("needs", "check", "level"),
    [(None, "1", "warning"), (FOUR, "0", "warning"), (FOUR, "yes", "error")],
)
def test_uneven_memory_is_refused_where_sglang_would(
    needs: Needs | None, check: str, level: Level
) -> None:
    machine = one_of_them(free_mib=60000)
    switched = {**machine.environment, "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": check}
    (found,) = troubles(replace(machine, environment=switched), needs)
    assert (found.subject, found.level) == ("gpu-memory", level)


def test_neighbouring_troubles_are_all_told() -> None:
    host = replace(CASES["shm"][0], nofile=100, environment={"http_proxy": "http://p:1"})
    assert [found.subject for found in troubles(host)] == ["shm", "limits", "proxies"]


def test_a_proxy_that_spares_this_machine_is_fine() -> None:
    for spared in ("*", "localhost,127.0.0.1", " 127.0.0.1 , localhost"):
        host = h200(environment={"https_proxy": "x", "http_proxy": "x", "no_proxy": spared})
        assert troubles(host) == [], spared


def test_a_cpu_profile_asks_for_no_gpu() -> None:
    laptop = h200(gpus=Gpus(), has_device=False, memory=16 * GIB, available=8 * GIB, shm=None)
    assert troubles(laptop, Needs(on_gpu=False)) == []
    assert troubles(laptop, None) == []
    busy = replace(laptop, available=1 * GIB)
    (found,) = troubles(busy, Needs(on_gpu=False))
    assert found.subject == "memory"


def test_fp8_on_an_a100_saves_memory_only() -> None:
    a100 = with_gpus(name="NVIDIA A100", capability=(8, 0))
    (found,) = troubles(a100, Needs(gpus=4, fp8=True))
    assert "8.0 has no FP8" in found.text
    assert troubles(a100, FOUR) == []


def test_cold_and_warm_caches_are_told() -> None:
    caches = (Cache("Triton", Path("/t"), 12, 3 << 30), Cache("DeepGEMM", Path("/d"), 0, 0))
    told = [str(found) for found in findings.of_host(h200(caches=caches), FOUR)]
    assert any("compiled before: Triton 3.0 GiB" in text for text in told)
    assert any("nothing compiled yet: DeepGEMM (/d)" in text for text in told)


@pytest.mark.parametrize(
    ("words", "host", "told"),
    [
        ("", "127.0.0.1", []),
        ("--api-key k", "127.0.0.1", ["--api-key stands"]),
        ("--api-ke=k", "localhost", ["--api-key stands"]),
        ("", "0.0.0.0", ["without a key"]),
        ("--api-key k", "0.0.0.0", ["--api-key stands", "no admin key"]),
        ("--api-key k --admin-api-key a", "0.0.0.0", ["--api-key and --admin-api-key stand"]),
        ("--config {keys}", "0.0.0.0", []),
        ("--config {key}", "0.0.0.0", ["no admin key"]),
    ],
)
def test_who_may_use_it_and_who_learns_the_keys(
    words: str, host: str, told: list[str], tmp_path: Path
) -> None:
    files = {"key": "api-key: k\n", "keys": "api-key: k\nadmin-api-key: a\n"}
    paths = {name: tmp_path / f"{name}.yaml" for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    argv = words.format(**paths).split()
    found = list(findings.of_keys(Launch((*argv, "--host", host))))
    assert [f.level for f in found] == ["warning"] * len(told)
    assert all(said in f.text for said, f in zip(told, found, strict=True)), found


def test_a_key_before_the_dashes_is_seen_though_it_goes_no_further() -> None:
    launch = preflight.plan(profile.load("demo"), preflight.Options(keys=Keys(api_key="k")))
    (found,) = findings.of_keys(launch)
    assert "--api-key stands" in found.text
    assert "`--api-key-file FILE`" in found.remedy


def test_keys_of_files_are_seen_by_nobody() -> None:
    words = ("python", "-m", "sglang", "--host", "0.0.0.0")
    both = {f"{name}_FILE": "/keys/one" for name in environment.KEYS.values()}
    assert list(findings.of_keys(Launch(words, environment=both))) == []
    one = {f"{environment.KEYS['--api-key']}_FILE": "/keys/one"}
    (found,) = findings.of_keys(Launch(words, environment=one))
    assert "no admin key" in found.text
    assert "--admin-api-key-file FILE" in found.remedy
