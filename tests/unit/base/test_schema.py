from pathlib import Path

import pytest
from pydantic import Field, model_validator

from sglang_qwen3next_eagle3.base import schema
from sglang_qwen3next_eagle3.base.errors import UserError


class Part(schema.Strict):
    size_of_it: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_small(self) -> "Part":
        if self.size_of_it > 9:
            raise ValueError("it is too large")
        return self


class Thing(schema.Strict):
    name: str
    a_part: Part


GOOD = "a-part: {size-of-it: 3}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    presets = tmp_path / "presets"
    presets.mkdir()
    for name in ("small", "big"):
        (presets / f"{name}.yaml").write_text(GOOD)
    return presets


def load(folder: Path, name: str) -> Thing:
    return schema.load(Thing, "thing", folder, name, lambda path, data: {"name": path.stem} | data)


def test_a_preset_is_found_by_its_name_and_a_file_by_its_path(folder: Path, tmp_path: Path) -> None:
    assert schema.names(folder) == ("big", "small")
    assert load(folder, "small") == Thing(name="small", a_part=Part(size_of_it=3))
    for own in ("mine.yaml", "mine.yml", "mine"):
        (tmp_path / own).write_text(GOOD)
        assert load(folder, str(tmp_path / own)).name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny", "no thing 'tiny': choose one of big, small, or give a .yaml file of your own"),
        ("tiny.yaml", "no thing file tiny.yaml: write one, or choose one of big, small"),
        (".yaml", "no thing file .yaml: write one, or choose one of big, small"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        load(folder, name)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not YAML: "),
        (b"\xff\xfe\x00", "is not YAML: "),
        (b"- 1", "holds no mapping of thing keys"),
        (b"colour: red", ": a-part: Field required"),
        (GOOD.encode() + b"colour: red", ": colour: unknown key; known are name, a-part"),
        (b"a-part: {size-of-it: 3, x: 1}", ": a-part.x: unknown key"),
        (b"a-part: {size-of-it: 0}", ": a-part.size-of-it: Input should be greater"),
        (b"a-part: {size-of-it: 10}", ": a-part: it is too large"),
        (b"a-part: [1]", ": a-part: keys with values are needed, as in {key: value}"),
        (GOOD.encode() + b"a-part: {size-of-it: 2}", ": 'a-part' is there twice, in lines 1 and 2"),
        (
            b"a-part: {size-of-it: 2, size-of-it: 3}",
            ": 'size-of-it' is there twice, in lines 1 and",
        ),
        (b"x: [{b: 1, 'b': 2}]", ": 'b' is there twice, in lines 1 and 1: leave one of them"),
        (b'a-part: {size-of-it: "2\\0"}', ": line 1 holds a NUL character: take it out"),
        (b'"a\\0": 1', ": line 1 holds a NUL character: take it out"),
        (b"a-part: &a [*a]", ": a-part: keys with values are needed"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(folder: Path, content: bytes, message: str) -> None:
    path = folder.parent / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load(folder, str(path))
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_stands_once_in_each_mapping_is_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [{x: 1}, {x: 1}]\n1: a\n'1': b\n")
    assert schema.read_mapping(path, "thing") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
        1: "a",
        "1": "b",
    }


def test_a_folder_in_a_file_s_place_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(UserError, match=r"mine\.yaml is a folder: name the thing's \.yaml file"):
        load(folder, str(tmp_path / "mine.yaml"))


def test_a_file_that_cannot_be_read_says_why(folder: Path) -> None:
    (folder / "d.yaml").mkdir()
    with pytest.raises(UserError, match=r"d\.yaml cannot be read: Is a directory"):
        load(folder, "d")


def test_hidden_fields_are_not_among_the_known_ones() -> None:
    with pytest.raises(UserError) as refused:
        schema.validate(Thing, {"name": "x", "a-part": {"size-of-it": 1}, "y": 1}, "it",
                        hidden=("name",), way_out=" (mend it)")  # fmt: skip
    assert str(refused.value) == "it: y: unknown key; known are a-part (mend it)"
