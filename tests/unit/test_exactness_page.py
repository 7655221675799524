from pathlib import Path

from tests.support.request_features import FEATURES, render

PAGE = Path(__file__).parents[2] / "docs" / "exactness-requests.md"


def test_the_page_is_what_the_tests_ask() -> None:
    assert PAGE.read_text(encoding="utf-8").splitlines() == list(render())


def test_no_feature_is_asked_twice() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
