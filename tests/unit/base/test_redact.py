from sglang_qwen3next_eagle3.base.redact import without_paths


def test_no_path_of_the_machine_is_left() -> None:
    value = {
        "a": "/home/somebody/run/x.pt", "b": ["~/features", "org/name", 3], "c": {"d": ("/t",)},
        "e": "a/b", "f": None,
    }  # fmt: skip
    assert without_paths(value) == {
        "a": "x.pt", "b": ["features", "org/name", 3], "c": {"d": ["t"]}, "e": "a/b", "f": None,
    }  # fmt: skip
