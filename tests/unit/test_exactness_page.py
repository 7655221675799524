from pathlib import Path

from tests.support.request_features import CIRCUMSTANCES, FEATURES, render

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "exactness-requests.md"


def test_the_page_is_what_the_tests_ask() -> None:
    assert PAGE.read_text(encoding="utf-8").splitlines() == list(render())


def test_no_feature_is_asked_twice() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)


def test_the_page_names_tests_that_are_there() -> None:
    for name, _, file, test in CIRCUMSTANCES:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), name
