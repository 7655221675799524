"""The installed SGLang against its manifest, and the plugin inside it."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.overlay import capture, contract, environment, routing, simulate
from sglang_qwen3next_eagle3.overlay.adaptive import deferral, in_place
from sglang_qwen3next_eagle3.overlay.adaptive import hooks as adaptive
from sglang_qwen3next_eagle3.overlay.cpu_engine.hooks import HOOKS
from sglang_qwen3next_eagle3.overlay.cycle import hooks as cycle
from sglang_qwen3next_eagle3.overlay.cycle.recorder import Recorder
from sglang_qwen3next_eagle3.overlay.cycle.recording import Control
from sglang_qwen3next_eagle3.overlay.fast import hooks as fast
from sglang_qwen3next_eagle3.overlay.fast.stages import Wanted
from sglang_qwen3next_eagle3.overlay.metrics import hooks as metrics_hooks
from sglang_qwen3next_eagle3.overlay.metrics.families import Refusals, Verifications
from sglang_qwen3next_eagle3.overlay.requests import hooks as request_hooks
from sglang_qwen3next_eagle3.overlay.seams import hooks as at_seams
from sglang_qwen3next_eagle3.overlay.seams import seams
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength

ROOT = Path(__file__).parents[2]
LEFT_TO_STOCK: dict[str, set[contract.Part]] = {}
"""Parts that are not there with a release."""


@pytest.fixture(scope="module")
def installed() -> contract.Installed:
    found = contract.installed_sglang()
    assert found is not None
    return found


def test_every_symbol_is_as_reviewed(installed: contract.Installed) -> None:
    manifest = contract.read_manifest(installed.release)
    parts = {symbol.part for symbol in manifest.symbols}
    assert parts >= {"capture", "cpu_engine", "prefill"}
    assert contract.require(sorted(parts), installed).release == installed.release


def test_every_part_is_there_or_left_to_stock(installed: contract.Installed) -> None:
    parts = {symbol.part for symbol in contract.read_manifest(installed.release).symbols}
    left = LEFT_TO_STOCK.get(installed.release, set())
    assert parts == set(get_args(contract.Part)) - {"training"} - left


@pytest.mark.parametrize("file", ["fast/ranks.py", "variants.py"])
def test_what_is_imported_from_sglang_is_in_the_manifest(
    installed: contract.Installed, file: str
) -> None:
    """As far as the release has its module; what a package only hands on, where it is defined."""
    listed = {symbol.target for symbol in contract.read_manifest(installed.release).symbols}
    overlay = ROOT / "sglang_qwen3next_eagle3" / "overlay"
    imports = [
        (node.module, name.name)
        for node in ast.walk(ast.parse((overlay / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang.")
        for name in node.names
    ]
    missing = []
    for module, name in imports:
        assert module is not None
        base = installed.root.joinpath(*module.split("."))
        if not base.with_suffix(".py").is_file() and not base.is_dir():
            continue
        if base.is_dir() and (base.joinpath(f"{name}.py").is_file() or (base / name).is_dir()):
            # A module: its symbols are named where they are used.
            continue
        within = (target for target in listed if target.startswith((f"{module}:", f"{module}.")))
        if not any(target.partition(":")[2].split(".")[0] == name for target in within):
            missing.append(f"{module}:{name}")
    assert len(imports) > 2
    assert not missing


def test_every_hook_is_in_the_manifest(installed: contract.Installed, tmp_path: Path) -> None:
    manifest = contract.read_manifest(installed.release)
    listed = {(s.target, s.why) for s in manifest.symbols if s.role == "hooked"}
    shared = AcceptLength.create(tmp_path / "number")
    tables = [*capture.hooks(capture.choose_by(None)), *HOOKS, *simulate.hooks(shared)]
    tables += [*map(routing.hook, routing.ROUTINGS)]
    tables += [*request_hooks.ENTRIES, *request_hooks.HOOKS]
    tables += fast.hooks(Wanted(frozenset({"head"})))
    registry = CollectorRegistry()
    labels = {"tp_rank": "0"}
    refusals = Refusals(labels, [], registry)
    tables += [*metrics_hooks.ENTRIES, *metrics_hooks.tokenizer_hooks(refusals)]
    Control.create(tmp_path)
    tables += [cycle.entry(tmp_path), *cycle.hooks(Recorder(tmp_path, "tp0"))]
    tables += [at_seams.announcing(frozenset(seams.ALL)), *at_seams.hooks(frozenset(seams.ALL))]
    tables += metrics_hooks.scheduler_hooks(Verifications(labels, 3, None, registry), refusals)
    tables += [*adaptive.hooks(), *deferral.hooks(8), *in_place.hooks()]
    known = {(hook.target, hook.why) for hook in tables if not hook.module.startswith("torch.")}
    assert listed <= known
    elsewhere = {
        (symbol.target, symbol.why)
        for release in contract.known_releases()
        if release != installed.release
        for symbol in contract.read_manifest(release).symbols
        if symbol.role == "hooked"
    }
    assert known - listed <= elsewhere


def load_plugins(
    tmp_path: Path, check: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """SGLang's own `load_plugins()` in a fresh process, then `check`."""
    code = f"from sglang.srt.plugins import load_plugins; load_plugins()\n{check}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SGLANG_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, **environment},
    )


CHECK = (
    "from sglang.srt.models.qwen3_next import Qwen3NextForCausalLM as m;"
    "print('hooked' if hasattr(m.set_eagle3_layers_to_capture, '__wrapped__') else 'stock')"
)


SIMULATED = (
    "from sglang.srt.speculative.eagle_worker_common import eagle_sample as f;"
    "print('simulated' if hasattr(f, '__wrapped__') else 'stock')"
)


@pytest.fixture(scope="module")
def unasked(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """Where nobody asked for anything."""
    return load_plugins(tmp_path_factory.mktemp("unasked"), f"{CHECK}\n{SIMULATED}")


def test_sglang_finds_and_runs_the_plugin(unasked: "subprocess.CompletedProcess[str]") -> None:
    assert unasked.stdout.splitlines()[-2] == "hooked", unasked.stderr


@pytest.mark.parametrize(
    "environment",
    [{"SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS": "off"}, {"SGLANG_PLUGINS": "another"}],
)
def test_switched_off_or_filtered_out_it_leaves_sglang_alone(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ended = load_plugins(tmp_path, CHECK, **environment)
    assert ended.stdout.splitlines()[-1] == "stock", ended.stderr


def test_acceptance_is_simulated_only_on_request(
    unasked: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    assert unasked.stdout.splitlines()[-1] == "stock", unasked.stderr
    AcceptLength.create(tmp_path / "number")
    named = {environment.SIMULATE: str(tmp_path / "number")}
    ended = load_plugins(tmp_path, SIMULATED, **named)
    assert ended.stdout.splitlines()[-1] == "simulated", ended.stderr


PUT_IN_PLACE = """
from pathlib import Path
from sglang_qwen3next_eagle3.overlay.cycle import hooks, phases
from sglang_qwen3next_eagle3.overlay.cycle.recorder import Recorder
from sglang_qwen3next_eagle3.overlay.hooks import apply, current
recorder = Recorder(Path({folder!r}), "tp0")
every = (*phases.PHASES, *phases.TORCH)
for phase in every:
    recorder.know(phase.name, current(phase.target))
apply(hooks.hooks(recorder))
print(hasattr(current(phases.ENTRY), "__wrapped__"))
print([phase.target for phase in every if not hasattr(current(phase.target), "__wrapped__")])
print(set(phases.NAMES) - set(recorder._codes.values()))
"""


def test_every_phase_is_a_function_that_can_be_timed(tmp_path: Path) -> None:
    """Also on a machine without a GPU, and its code is known to who samples stacks."""
    Control.create(tmp_path)
    named = {environment.CYCLE: str(tmp_path)}
    ended = load_plugins(tmp_path, PUT_IN_PLACE.format(folder=str(tmp_path)), **named)
    assert ended.stdout.splitlines()[-3:] == ["True", "[]", "set()"], ended.stderr


def test_a_changed_source_stops_the_process_with_one_line(
    tmp_path: Path, installed: contract.Installed
) -> None:
    """A copy of this package whose manifest has another fingerprint, in front on the path."""
    copy = tmp_path / "sglang_qwen3next_eagle3"
    subprocess.run(["cp", "-r", str(ROOT / "sglang_qwen3next_eagle3"), str(copy)], check=True)
    patches = tmp_path / "patches"
    patches.mkdir()
    for source in data_dir("patches").glob("*.toml"):
        fingerprint = next(
            s.fingerprint
            for s in contract.read_manifest(installed.release).symbols
            if s.target == capture.FORWARD
        )
        text = source.read_text().replace(fingerprint, "0" * 16)
        (patches / source.name).write_text(text)
    (tmp_path / "launch").mkdir()
    environment = {"PYTHONPATH": str(tmp_path), "SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS": "card"}
    ended = load_plugins(tmp_path, "print('served')", **environment)
    assert ended.returncode != 0
    assert "served" not in ended.stdout
    line = ended.stderr.strip().splitlines()[-1]
    assert f"SGLang {installed.release}: {capture.FORWARD} is not what this package hooks" in line
    assert "supported releases: 0.5.17, 0.5.23" in line


def test_without_a_request_a_changed_source_stops_only_qwen3_next(tmp_path: Path) -> None:
    """Other models of an unsupported release are served; the refusal waits in the setter."""
    check = (
        "from sglang.srt.models.qwen3_next import Qwen3NextForCausalLM as m;print('served');"
        "m.set_eagle3_layers_to_capture(None)"
    )
    shim = tmp_path / "sitecustomize.py"
    shim.write_text(
        "from sglang_qwen3next_eagle3.overlay import contract\n"
        "contract.known_releases = lambda: ('0.0.1',)\n"
        "contract.installed_sglang = lambda: contract.Installed('9.9', None)\n"
    )
    ended = load_plugins(tmp_path, check, PYTHONPATH=str(tmp_path))
    assert "served" in ended.stdout
    assert ended.returncode != 0
    assert "SGLang 9.9 is not supported: install one of 0.0.1" in ended.stderr.splitlines()[-1]


def test_the_wheel_carries_the_data_and_the_entry_point(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        points = next(n for n in names if n.endswith("entry_points.txt"))
        text = opened.read(points).decode()
    package = "sglang_qwen3next_eagle3"
    for kind, pattern in (("launch", "*.yaml"), ("patches", "*.toml")):
        expected = {f"{package}/data/{kind}/{p.name}" for p in (ROOT / kind).glob(pattern)}
        assert expected
        assert expected <= names
    for name in (
        "demo/target/model.safetensors",
        "demo/head/README.md",
        "train/trainer/recipes/card.yaml",
    ):
        assert f"{package}/{name}" in names
    assert not [n for n in names if n.endswith(".gz")]
    assert f"{package}/overlay/cpu_engine/shim/common_ops.py" in names
    assert "[sglang.srt.plugins]" in text
    assert f"{plugin.NAME} = {package}.plugin:register" in text
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/"))]
