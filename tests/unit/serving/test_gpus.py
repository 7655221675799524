"""What is read of nvidia-smi: its answers as drivers print them, and its silences."""

from collections.abc import Sequence

import pytest

from sglang_qwen3next_eagle3.serving import gpus

BASIC = """\
0, GPU-1b, NVIDIA H200, 143771, 143167, 9.0, 580.159.04
1, GPU-2c, NVIDIA H200, 143771, 60000, 9.0, 580.159.04
"""
STATE = """\
0, Enabled, 0x0000000000000001, Disabled, 0
1, Disabled, 0x0000000000000024, Disabled, [N/A]
"""
APPS = "GPU-2c, 4711, python3, 83000\nGPU-2c, 4712, [Not Found], [N/A]\n"
TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tPIX\t0-47\t0\t\tN/A
GPU1\tNV18\t X \tSYS\t0-47\t0\t\tN/A
NIC0\tPIX\tSYS\t X \t\t\t\t

Legend:

  X    = Self
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def answering(
    basic: str | None = BASIC,
    state: str | None = STATE,
    apps: str | None = APPS,
    topology: str | None = TOPOLOGY,
) -> gpus.Run:
    def run(command: Sequence[str]) -> str | None:
        asked = " ".join(command)
        if "--query-compute-apps" in asked:
            return apps
        if "topo" in asked:
            return topology
        return state if "persistence_mode" in asked else basic

    return run


def test_two_of_them_with_their_state_processes_and_links() -> None:
    found = gpus.probe(answering())
    first, second = found.found
    assert (first.name, first.total_mib, first.free_mib) == ("NVIDIA H200", 143771, 143167)
    assert first.capability == (9, 0)
    assert (first.persistence, second.persistence) == (True, False)
    assert first.throttled == ()
    assert second.throttled == ("its power limit", "its temperature")
    assert found.processes == (
        gpus.GpuProcess("GPU-2c", 4711, "python3", 83000),
        gpus.GpuProcess("GPU-2c", 4712, "", None),
    )
    assert found.on_nvlink(found.found) is True


def test_a_machine_without_nvidia_smi_has_none() -> None:
    found = gpus.probe(answering(basic=None))
    assert found.found == ()
    assert found.trouble == ""


@pytest.mark.parametrize(
    "said",
    [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.1\n",
        "No devices were found\n",
        "",
    ],
)
def test_what_it_says_when_it_does_not_work_is_kept(said: str) -> None:
    found = gpus.probe(answering(basic=said))
    assert found.found == ()
    assert found.trouble == " ".join(said.split()) or "nvidia-smi" in found.trouble


def test_a_driver_that_does_not_know_a_field_loses_no_gpu() -> None:
    unknown = 'Field "clocks_throttle_reasons.active" is not a valid field to query.\n'
    found = gpus.probe(answering(state=unknown, apps=None, topology="no such command"))
    assert len(found.found) == 2
    assert found.found[0].persistence is None
    assert found.on_nvlink(found.found) is None


def test_gpus_that_are_not_linked() -> None:
    links = gpus.parse_links(TOPOLOGY.replace("NV18", "SYS"))
    assert links == {(0, 1): "SYS", (1, 0): "SYS"}
    found = gpus.Gpus(gpus.parse_gpus(BASIC), (), links)
    assert found.on_nvlink(found.found) is False
    assert found.on_nvlink(found.found[:1]) is None


def test_a_gpu_without_memory_of_its_own_is_not_known() -> None:
    shared = "0, GPU-1b, NVIDIA GB10, [N/A], [N/A], 12.1, 580.95\n"
    assert gpus.probe(answering(basic=shared)) == gpus.Gpus(), "no trouble either"


def test_a_slice_stands_for_a_gpu_that_is_cut_up() -> None:
    cut = gpus.with_state(gpus.parse_gpus(BASIC), STATE.replace("Disabled, [N/A]", "Enabled, 0"))
    assert [gpu.mig for gpu in cut] == [False, True]
    assert [gpu.index for gpu in gpus.Gpus(cut).visible("MIG-aa,MIG-bb")] == [1, 1]
    assert gpus.Gpus(gpus.parse_gpus(BASIC)).visible("MIG-aa") == ()


@pytest.mark.parametrize(
    ("variable", "left"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-2c", [1]),
        ("", []),
        ("-1", []),
        ("0,7,1", [0]),
    ],
)
def test_what_cuda_visible_devices_leaves(variable: str | None, left: list[int]) -> None:
    found = gpus.Gpus(gpus.parse_gpus(BASIC))
    assert [gpu.index for gpu in found.visible(variable)] == left
