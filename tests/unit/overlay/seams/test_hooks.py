"""Which batches the seams take, and what they leave to SGLang."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import contract, proofs, variants
from sglang_qwen3next_eagle3.overlay.proofs import Proof
from sglang_qwen3next_eagle3.overlay.seams import broadcasts, hooks, launches, seams
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams

ORIGINAL = "SGLang's"


class Tensor:
    """What is asked of one before a kernel is launched."""

    def __init__(self, *shape: int, cuda: bool = True, contiguous: bool = True) -> None:
        self.shape, self.is_cuda, self._contiguous = shape, cuda, contiguous
        self.dtype = "int32"

    def is_contiguous(self) -> bool:
        return self._contiguous


def relay(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "_forward_buf_initialized": True,
        # The same of 0.5.23.
        "_maybe_init_forward_bufs": lambda payload: None,
        "_relay": None,
        "spec_algo": SimpleNamespace(is_ngram=lambda: False),
        "need_topk": True,
        "need_hidden_states": True,
        "output_tokens_buf": Tensor(32),
        "topk_p_buf": Tensor(32, 4),
        "topk_index_buf": Tensor(32, 4),
        "hidden_states_buf": Tensor(32, 64),
    }
    return SimpleNamespace(**{**values, **changes})


def payload(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "bonus_tokens": Tensor(2),
        "topk_p": Tensor(2, 4),
        "topk_index": Tensor(2, 4),
        "hidden_states": Tensor(2, 64),
        "draft_probs": None,
        "dsa_topk_indices": None,
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pairs that would be scattered."""
    found: list[Any] = []
    kernels = SimpleNamespace(scatter_rows=lambda indices, pairs: found.append(pairs))
    import sys

    monkeypatch.setitem(sys.modules, "sglang_qwen3next_eagle3.overlay.seams.kernels", kernels)
    monkeypatch.setattr("sglang_qwen3next_eagle3.overlay.seams.kernels", kernels, raising=False)
    return found


def stash(at: Any, of: Any, indices: Tensor) -> list[Any]:
    asked: list[Any] = []
    launches.stash(lambda *words: asked.append(words), at, indices, of)
    return asked


def test_what_a_cycle_leaves_is_ours(launched: list[Any]) -> None:
    at, of = relay(), payload()
    assert stash(at, of, Tensor(2)) == []
    assert launched == [
        [
            (of.bonus_tokens, at.output_tokens_buf),
            (of.topk_p, at.topk_p_buf),
            (of.topk_index, at.topk_index_buf),
            (of.hidden_states, at.hidden_states_buf),
        ]
    ]


@pytest.mark.parametrize(
    "at",
    [
        relay(_forward_buf_initialized=False, _relay="somebody else's"),
        relay(spec_algo=SimpleNamespace(is_ngram=lambda: True)),
        relay(need_topk=False, need_hidden_states=False),
        relay(topk_p_buf=Tensor(32, 8)),
        relay(hidden_states_buf=Tensor(32, 64, contiguous=False)),
    ],
)
def test_other_relays_are_left_to_sglang(launched: list[Any], at: Any) -> None:
    assert len(stash(at, payload(), Tensor(2))) == 1
    assert launched == []


@pytest.mark.parametrize(
    "of",
    [
        payload(draft_probs=Tensor(2, 8)),
        payload(dsa_topk_indices=Tensor(2, 8)),
        payload(hidden_states=None),
        payload(topk_p=Tensor(2, 4, contiguous=False)),
        payload(bonus_tokens=Tensor(2, cuda=False)),
    ],
)
def test_other_payloads_are_left_to_sglang(launched: list[Any], of: Any) -> None:
    assert len(stash(relay(), of, Tensor(2))) == 1
    assert launched == []


def test_an_idle_batch_is_left_to_sglang(launched: list[Any]) -> None:
    assert len(stash(relay(), payload(), Tensor(0))) == 1
    assert launched == []


def test_each_seam_has_its_hook() -> None:
    every = [hooks.hooks(frozenset({seam})) for seam in seams.ALL]
    # That sampled batches are recorded, too, is the hook of `cycle` to know.
    assert [seam for seam, of in zip(seams.ALL, every, strict=True) if not of] == ["sampled"]
    assert [hook.target for hook in hooks.hooks(frozenset(seams.ALL))] == [
        *(hook.target for each in every for hook in each),
        # A cycle is recorded with what it takes from the relay, where that is asked for.
        hooks.RESOLVE,
        hooks.STASH,
    ]
    (hook,) = hooks.hooks(frozenset({"commit"}))
    assert hook.target == hooks.COMMIT_STEPS


def test_a_seam_is_served_where_all_of_its_symbols_are_listed() -> None:
    every = frozenset(hook.target for hook in hooks.hooks(frozenset(seams.ALL)))
    wanted: frozenset[seams.Seam] = frozenset({"chain", "metadata", "commit"})
    assert hooks.served(wanted, every) == wanted
    one_of_metadata = next(iter(hooks.hooks(frozenset({"metadata"})))).target
    assert hooks.served(wanted, every - {one_of_metadata}) == {"chain", "commit"}
    assert hooks.served(wanted, frozenset()) == frozenset()
    assert hooks.served(frozenset({"cycle", "sampled"}), frozenset()) == frozenset()
    extend = frozenset(hook.target for hook in hooks.hooks(frozenset({"extend"})))
    assert hooks.served(frozenset({"cycle", "extend"}), extend) == frozenset(), "without cycles"


@pytest.mark.parametrize("release", ["0.5.17", "0.5.23"])
def test_the_first_rank_says_which_are_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    installed = contract.Installed(release, Path())
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    monkeypatch.setattr(variants, "place", lambda scheduler: scheduler.ps)
    doubts = ["sglang-qwen3next-eagle3: seams: no GPU has run them with SGLang 0.5.23 yet"]
    hook = hooks.announcing(frozenset({"chain", "metadata"}), frozenset({"commit"}))
    begun: list[Any] = []
    with caplog.at_level("INFO"):
        for rank in (0, 1):
            scheduler = SimpleNamespace(ps=SimpleNamespace(tp_rank=rank))
            hook.replacement(begun.append, scheduler)
    assert len(begun) == 2
    assert [record.message for record in caplog.records] == [
        f"sglang-qwen3next-eagle3: seams on: metadata, chain; code {of_seams.code().told}",
        "sglang-qwen3next-eagle3: seams that are SGLang's own: commit",
        *(doubts if release == "0.5.23" else []),
    ]


@pytest.mark.parametrize(("ranks", "told"), [(1, 0), (2, 1)])
def test_sampled_on_several_gpus_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ranks: int, told: int
) -> None:
    place = SimpleNamespace(tp_rank=0, tp_size=ranks)
    monkeypatch.setattr(variants, "place", lambda scheduler: place)
    hooks.announcing(frozenset({"cycle", "sampled"})).replacement(lambda _: None, object())
    assert caplog.text.count("sampled is for one GPU: it is SGLang's") == told


class Agreed:
    """Of one rank, with what it is told."""

    def __init__(self, rank: int, some: bool = False) -> None:
        self.rank, self.some, self.calls = rank, some, list[Any]()

    def tell(self, some: bool) -> None:
        self.calls.append(("tell", some))

    def received_by_all(self) -> None:
        self.calls.append("received by all")

    def ask(self) -> bool:
        self.calls.append("ask")
        return self.some

    def received(self) -> None:
        self.calls.append("received")


@pytest.mark.parametrize(
    ("agreed", "has", "found", "calls"),
    [
        (Agreed(0), [], [], [("tell", False)]),
        (Agreed(0), ["r"], ["r", "broadcast"], [("tell", True), "received by all"]),
        (Agreed(1, some=False), None, [], ["ask"]),
        (Agreed(1, some=True), None, ["broadcast"], ["ask", "received"]),
    ],
)
def test_a_list_is_broadcast_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, agreed: Agreed, has: Any, found: Any, calls: Any
) -> None:
    monkeypatch.setattr(broadcasts, "_agree", lambda receiver: agreed)
    around = broadcasts.Broadcasts().around

    def original(receiver: object, requests: list[str] | None) -> list[str]:
        return [*(requests or []), "broadcast"]

    assert around(original, object(), has) == found
    assert agreed.calls == calls


def test_without_an_agreement_every_turn_is_sglangs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(broadcasts, "_agree", asked.append)
    around = broadcasts.Broadcasts().around
    receiver = object()
    for _ in range(3):
        assert around(lambda receiver, requests: [ORIGINAL], receiver, []) == [ORIGINAL]
    assert asked == [receiver], "the ranks come to it once"


PROVED = (Proof("0.5.17", (9, 0), 1, ("chain", "commit")),)


@pytest.mark.parametrize(
    ("release", "capability", "ranks", "line", "served"),
    [
        ("0.5.17", (9, 0), 1, "seams on: commit, chain", {"commit", "chain"}),
        ("0.5.17", (9, 0), 2, "seams off: not proved with TP 2", set()),
        (
            "0.5.17", (8, 0), 1,
            "seams off: not proved on GPUs of compute capability 8.0", set(),
        ),
        ("0.5.23", (9, 0), 1, "seams off: not proved with SGLang 0.5.23", set()),
        ("0.5.17", None, 1, "seams off: they are launches on a GPU", set()),
    ],
)  # fmt: skip
def test_seams_that_nobody_asked_for_serve_where_they_were_proved(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    capability: tuple[int, int] | None,
    ranks: int,
    line: str,
    served: set[str],
) -> None:
    import torch

    monkeypatch.setattr(hooks, "PROVED", PROVED)
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed(release, Path()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    place = SimpleNamespace(tp_rank=0, tp_size=ranks)
    monkeypatch.setattr(variants, "place", lambda scheduler: place)
    monkeypatch.setattr(hooks, "_ranks", lambda: ranks)
    monkeypatch.setattr(hooks, "_arguments", SimpleNamespace)
    wanted = frozenset(seams.ON)
    proved = hooks.Proved(wanted)
    table: dict[seams.Seam, Any] = {
        seam: hook
        for seam in seams.ON
        for hook in hooks.where_proved(frozenset({seam}), proved)
        if seam != "cycle"
    }
    assert {hook.target for hook in table.values()} <= {hook.target for hook in hooks.hooks(wanted)}

    def original(*_: Any, **__: Any) -> str:
        return "SGLang's"

    def ours(seam: seams.Seam) -> bool:
        """Whether a seam's function looks at what it is given: ours cannot do with nothing."""
        try:
            return bool(table[seam].replacement(original) != "SGLang's")
        except (TypeError, AttributeError):
            return True

    # The first of them that is called asks, whichever it is.
    assert {seam for seam in table if ours(seam)} == served
    hook = hooks.announcing(wanted, proved=proved)
    begun: list[Any] = []
    with caplog.at_level("INFO"):
        hook.replacement(begun.append, SimpleNamespace())
    assert len(begun) == 1
    (said,) = [record.message for record in caplog.records]
    if served:
        line += f"; code {of_seams.code().told}"
    assert said == f"sglang-qwen3next-eagle3: {line}"
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert proved.seams == served
    assert {seam for seam in table if ours(seam)} == served


def arguments_of(config: dict[str, Any], **given: bool) -> Any:
    model = SimpleNamespace(hf_config=SimpleNamespace(**config))
    return SimpleNamespace(get_model_config=lambda: model, **given)


FP8 = {"quantization_config": {"quant_method": "fp8"}}


@pytest.mark.parametrize(
    ("restricted", "config", "given", "gpu", "reason"),
    [
        ({"precisions": ("bf16",)}, {}, False, "X", None),
        ({"precisions": ("bf16",)}, FP8, False, "X", "not proved with TP 1 and weights in fp8"),
        ({"precisions": ("fp8",)}, FP8, False, "X", None),
        ({"given": ("--x",)}, {}, True, "X", None),
        ({"given": ("--x",)}, {}, False, "X", "not proved with TP 1 without --x"),
        ({"devices": ("X",)}, {}, False, "X", None),
        ({"devices": ("X",)}, {}, False, "Y", "not proved on an Y"),
        ({"shapes": (("head_dim", 2),)}, {"head_dim": 2}, False, "X", None),
        ({"shapes": (("head_dim", 2),)}, {"head_dim": 3}, False, "X",
         "not proved with a head_dim of 3"),
        ({"code": "0a"}, {}, False, "X", proofs.OTHER_CODE),
    ],
)  # fmt: skip
def test_all_that_a_proof_may_be_restricted_to_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    restricted: dict[str, Any],
    config: dict[str, Any],
    given: bool,
    gpu: str,
    reason: str | None,
) -> None:
    import torch

    table = (Proof("0.5.17", (9, 0), 1, ("chain", "commit"), **restricted),)
    monkeypatch.setattr(hooks, "PROVED", table)
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    monkeypatch.setattr(hooks, "_ranks", lambda: 1)
    monkeypatch.setattr(hooks, "_arguments", lambda: arguments_of(config, x=given))
    proved = hooks.Proved(frozenset(seams.ON))
    assert proved.seams == (frozenset() if reason else {"chain", "commit"})
    assert proved.reason == reason


def test_hooks_that_wait_for_a_proof_are_told_apart() -> None:
    """Two around one symbol are both put in place (`hooks.apply` goes by their names)."""
    wanted = frozenset(seams.ON)
    waiting = hooks.where_proved(wanted, hooks.Proved(wanted))
    names = [hook.replacement.__qualname__ for hook in hooks.hooks(wanted)]
    assert [hook.replacement.__qualname__ for hook in waiting] == names
