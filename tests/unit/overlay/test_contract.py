from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.contract import Installed, read_symbol

SOURCE = '''
import os
from somewhere import helper, other as renamed

if os.name == "posix":
    def chosen(a): return 1
else:
    def chosen(a): return 2

try:
    from fast import kernel as spin
except ImportError:
    spin = None

count: int = 3
first, second = 1, 2

class Model:
    flag = True

    @property
    def size(self):
        return 1

    def forward(self, x, *rest, key=None, **more):
        """Doc."""
        return x  # comment
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "model.py").write_text(SOURCE, encoding="utf-8")
    contract._parse_module.cache_clear()
    return tmp_path


def manifest_of(root: Path, *targets: str, part: str = "capture") -> contract.ReleaseManifest:
    symbols = []
    for target in targets:
        found = read_symbol(root, target)
        assert found is not None
        symbols.append(contract.Symbol(target, part, "hooked", *found, "why"))  # type: ignore[arg-type]
    return contract.ReleaseManifest("9.9", "in a test", tuple(symbols))


def change(root: Path, old: str, new: str) -> None:
    assert old in SOURCE
    (root / "sglang" / "model.py").write_text(SOURCE.replace(old, new), encoding="utf-8")
    contract._parse_module.cache_clear()


FORWARD = "sglang.model:Model.forward"


def test_methods_functions_and_bindings_are_found(root: Path) -> None:
    parameters, fingerprint = read_symbol(root, FORWARD) or ((), "")
    assert parameters == ("self", "x", "*rest", "key", "**more")
    assert len(fingerprint) == 16
    assert read_symbol(root, "sglang.model:chosen") is not None
    assert read_symbol(root, "sglang.model:helper") is not None
    assert read_symbol(root, "sglang.model:renamed") is not None
    assert read_symbol(root, "sglang.model:Model.flag") is not None


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("chosen", "def chosen(a): return 1", "def chosen(a): return 3"),
        ("chosen", "def chosen(a): return 2", "def chosen(a): return 3"),
        ("spin", "from fast import kernel as spin", "from fast import other as spin"),
        ("spin", "    spin = None", "    spin = 0"),
        ("count", "count: int = 3", "count: int = 4"),
        ("second", "first, second = 1, 2", "first, second = 1, 3"),
    ],
)
def test_every_statement_that_binds_a_name_counts(
    root: Path, name: str, old: str, new: str
) -> None:
    manifest = manifest_of(root, f"sglang.model:{name}")
    change(root, old, new)
    assert [f.state for f in contract.compare(manifest, root, ["capture"])] == ["source"]


def test_a_form_feed_ends_no_line(root: Path) -> None:
    plain = manifest_of(root, FORWARD)
    (root / "sglang" / "model.py").write_text("x = 'a\x0cb'\n" + SOURCE, encoding="utf-8")
    contract._parse_module.cache_clear()
    assert contract.compare(plain, root, ["capture"])[0].state == "ok"


@pytest.mark.parametrize(
    ("release", "nearest"),
    [("0.5.15", "0.5.17"), ("0.5.17", "0.5.17"), ("0.5.18", "0.5.17"), ("0.5.22", "0.5.23"),
     ("0.5.20.post1", "0.5.17"), ("0.4.9", "0.5.17"), ("1.0", "0.5.23")],
)  # fmt: skip
def test_a_new_manifest_begins_from_the_nearest_release(release: str, nearest: str) -> None:
    assert contract.nearest_release(release) == nearest


@pytest.mark.parametrize(
    "target", ["sglang.gone:f", "sglang.model:gone", "sglang.model:Model.gone", "sglang.model:a.b"]
)
def test_what_is_not_there_is_missing(root: Path, target: str) -> None:
    assert read_symbol(root, target) is None


def test_an_unchanged_source_passes(root: Path) -> None:
    findings = contract.compare(manifest_of(root, FORWARD), root, ["capture"])
    assert [finding.state for finding in findings] == ["ok"]


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        ("return x  # comment", "return x + 1", "source"),
        ("x, *rest", "y, *rest", "parameters"),
        ("def forward", "def advance", "missing"),
        ("class Model:", "class Models:", "missing"),
    ],
)
def test_every_kind_of_change_is_noticed(root: Path, old: str, new: str, state: str) -> None:
    manifest = manifest_of(root, FORWARD)
    change(root, old, new)
    assert [f.state for f in contract.compare(manifest, root, ["capture"])] == [state]


def test_a_change_elsewhere_in_the_file_is_none_of_our_business(root: Path) -> None:
    manifest = manifest_of(root, FORWARD)
    change(root, "flag = True", "flag = False\n    more = 1")
    assert contract.compare(manifest, root, ["capture"])[0].state == "ok"


def test_the_origin_of_an_import_counts(root: Path) -> None:
    manifest = manifest_of(root, "sglang.model:helper")
    change(root, "from somewhere", "from elsewhere")
    assert contract.compare(manifest, root, ["capture"])[0].state == "source"


def test_only_the_parts_asked_for_are_compared(root: Path) -> None:
    assert contract.compare(manifest_of(root, FORWARD), root, ["cpu_engine"]) == []


def test_a_mismatch_names_symbol_installed_and_supported(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of(root, FORWARD)
    monkeypatch.setattr(contract, "read_manifest", lambda release: manifest)
    assert contract.require(["capture"], Installed("9.9", root)) is manifest
    change(root, "return x  # comment", "return None")
    with pytest.raises(UserError) as caught:
        contract.require(["capture"], Installed("9.9", root))
    message = str(caught.value)
    assert FORWARD in message
    assert "SGLang 9.9" in message
    assert "0.5.17, 0.5.23" in message
    assert "\n" not in message


def test_a_part_that_a_release_lacks_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of(root, FORWARD)
    monkeypatch.setattr(contract, "read_manifest", lambda release: manifest)
    with pytest.raises(UserError, match="no cpu_engine part"):
        contract.require(["capture", "cpu_engine"], Installed("9.9", root))


def test_unknown_releases_and_an_absent_sglang_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"SGLang 0\.4\.0 is not supported: install one of 0\.5\.17"
    ):
        contract.require(["capture"], Installed("0.4.0", tmp_path))
    monkeypatch.setattr(contract, "installed_sglang", lambda: None)
    with pytest.raises(UserError, match="SGLang is not installed: pip install"):
        contract.require(["capture"])


def test_the_manifests_of_the_package_are_read() -> None:
    assert contract.known_releases() == ("0.5.17", "0.5.23")
    for release in contract.known_releases():
        manifest = contract.read_manifest(release)
        assert manifest.release == release
        assert manifest.reviewed
        hooked = [s.target for s in manifest.of("capture") if s.role == "hooked"]
        assert len(hooked) == 2
        assert all(symbol.why for symbol in manifest.symbols)


@pytest.mark.parametrize("text", ["x =", 'release = "1"', "symbol = 3"])
def test_a_damaged_manifest_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a manifest"):
        contract.parse_manifest(text, "m.toml")


def test_a_manifest_says_what_is_hooked_in_a_part() -> None:
    manifest = contract.read_manifest("0.5.17")
    names = manifest.hooked("cpu_engine")
    assert "sglang.srt.speculative.draft_utils:cpu_has_amx_support" in names
    assert manifest.hooked("capture").isdisjoint(names)
    assert len(manifest.hooked("capture")) == 2


@pytest.mark.parametrize(
    ("release", "later"),
    [("0.5.17", False), ("0.5.22", False), ("0.5.23", True), ("0.5.23.post1", True),
     ("0.6.0", True), ("0.5.9", False)],
)  # fmt: skip
def test_releases_are_compared_by_their_numbers(release: str, later: bool) -> None:
    assert contract.at_least(release, "0.5.23") is later
