"""The servers whose cycles are compared: stock SGLang's beside ours, of the same trees."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.serving import profile as profiles

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "fast-path"
NAMES = sorted(path.stem.removeprefix("ours-") for path in FOLDER.glob("ours-*.yaml"))


def test_every_server_of_ours_has_one_of_stock_beside_it() -> None:
    assert NAMES == ["314", "348", "mtp", "none"]
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        f"{who}-{name}.yaml" for who in ("ours", "stock") for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_they_differ_in_what_is_compared_alone(name: str) -> None:
    ours, stock = (profiles.load(str(FOLDER / f"{who}-{name}.yaml")) for who in ("ours", "stock"))
    assert (stock.fast, stock.seams) == ("off", "off")
    assert ours.fast not in (None, "off")
    assert ours.seams not in (None, "off")
    same = ("hardware", "target", "head", "tree", "algorithm")
    assert [getattr(ours, key) for key in same] == [getattr(stock, key) for key in same]
    # What stock is faster with, and refuses for trees.
    more = set(stock.sglang) - set(ours.sglang)
    assert more == ({"enable-linear-replayssm-spec"} if name in ("314", "mtp") else set())
