import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Tap
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.checkpoints import CODER_NEXT

TARGET = Target.from_config(CODER_NEXT)


def target_with(layers: int) -> Target:
    return Target({"num_hidden_layers": layers, "full_attention_interval": 4})


@pytest.mark.parametrize(
    ("name", "streams"),
    [("card", "output:3,23,47"), ("fork", "input:3,27,47"), ("sglang", "input:2,24,45")],
)
def test_named_selections_are_those_of_their_sources(name: str, streams: str) -> None:
    selection = aux_layers.on_target(name, TARGET)
    assert str(selection) == streams
    assert selection.name == name


def test_card_takes_first_middle_and_last_attention_layer_of_any_target() -> None:
    assert str(aux_layers.named("card", target_with(12))) == "output:3,7,11"
    assert str(aux_layers.named("card", target_with(16))) == "output:3,7,15"
    assert str(aux_layers.named("fork", target_with(16))) == "input:3,11,15"


@pytest.mark.parametrize("name", ["card", "fork"])
def test_a_target_with_two_attention_layers_needs_an_explicit_selection(name: str) -> None:
    with pytest.raises(UserError, match="2 attention layers.*name the streams"):
        aux_layers.on_target(name, target_with(8))
    assert aux_layers.on_target("output:3,7", target_with(8), count=2)


def test_taps_may_differ_by_layer() -> None:
    selection = aux_layers.parse("input:3,output:23,output:47")
    assert isinstance(selection, AuxSelection)
    assert selection.taps == (Tap(3, "input"), Tap(23, "output"), Tap(47, "output"))
    assert selection.depths == (3, 24, 48)


def test_a_tap_holds_for_the_layers_after_it() -> None:
    selection = aux_layers.parse("input:3, output:23,47")
    assert str(selection) == "input:3,output:23,output:47"


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.sampled_from(["input", "output"])), min_size=1, max_size=5
    )
)
def test_what_is_printed_is_read_back(taps: list[tuple[int, str]]) -> None:
    selection = AuxSelection(tuple(Tap(layer, kind) for layer, kind in taps))  # type: ignore[arg-type]
    assert aux_layers.parse(str(selection)) == selection


@pytest.mark.parametrize("text", ["", "3,23,47", "output", "output:", "outptu:3", "output:-1",
                                  "output:3,,4", "output:x", "card,fork", "output:٣"])  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_spelling(text: str) -> None:
    with pytest.raises(UserError, match="write card, fork, sglang"):
        aux_layers.parse(text)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("output:3,23,48", "no layer 48, its layers are 0 to 47"),
        ("output:3,23", "2 named, the head's fc takes 3"),
        ("output:3,3,47", "same stream"),
        ("output:3,input:4,47", "same stream"),
        ("output:47,23,3", "ascending"),
        ("output:2,23,47", "2 are GDN layers.*--allow-gdn-aux"),
        ("input:3,24,47", "24 are GDN layers"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(wanted: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        aux_layers.on_target(wanted, TARGET)


def test_gdn_layers_may_be_named_on_request() -> None:
    selection = aux_layers.on_target("output:2,23,46", TARGET, allow_gdn=True)
    assert selection.gdn_streams(TARGET) == (Tap(2, "output"), Tap(46, "output"))


def test_head_ids_mean_outputs_in_layer_order() -> None:
    assert str(aux_layers.from_head_ids([47, 3, 23])) == "output:3,23,47"


@pytest.mark.parametrize("ids", [[3, "23", 47], [True, 23, 47], [-1, 3, 47], [3.0, 23, 47]])
def test_head_ids_that_are_no_layers_are_refused(ids: list[object]) -> None:
    with pytest.raises(UserError, match="layer numbers"):
        aux_layers.from_head_ids(ids)


def test_the_embedding_leaves_no_layer() -> None:
    assert AuxSelection((Tap(0, "input"),)).gdn_streams(TARGET) == ()


@pytest.mark.parametrize("wanted", ["card", "sglang", "output:3,7,47", "input:3,output:4,47"])
def test_a_selection_survives_the_environment(wanted: str) -> None:
    selection = aux_layers.on_target(wanted, TARGET, allow_gdn=True)
    value = aux_layers.to_environment(selection, TARGET)
    spelled, allow_gdn = aux_layers.from_environment(value)
    assert aux_layers.on_target(spelled, TARGET, allow_gdn=allow_gdn) == selection


def test_words_after_the_selection_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        aux_layers.from_environment("output:3,23,47 please")
