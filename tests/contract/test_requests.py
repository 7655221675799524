"""What the room of requests does to SGLang's own request objects."""

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.managers.io_struct import GenerateReqInput, TokenizedGenerateReqInput
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.requests import (
    admission,
    endings,
    grammars,
    hooks,
    logprobs,
    room,
)
from sglang_qwen3next_eagle3.overlay.requests.admission import Limits, refusal
from sglang_qwen3next_eagle3.overlay.requests.bounds import Bounds
from tests.support.odd_requests import SHORT_LISTS

LIMITS = Limits(vocab_size=4096, speculative=True, eagle3=True)


class Letters:
    """A tokenizer of one letter a token; the end of text is 0."""

    eos_token_id = 0
    additional_stop_token_ids = None

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(chr(i) for i in ids)


def tokenized(ids: list[int] | None = None, **fields: Any) -> TokenizedGenerateReqInput:
    sampling = fields.pop("sampling_params", None) or SamplingParams(**fields.pop("sampling", {}))
    if not sampling.is_normalized:
        sampling.normalize(Letters())
    values: dict[str, Any] = {
        "rid": "a",
        "input_text": "",
        "input_ids": array("q", [1, 2, 3] if ids is None else ids),
        "input_embeds": None,
        "mm_inputs": None,
        "token_type_ids": None,
        "sampling_params": sampling,
        "return_logprob": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "token_ids_logprob": None,
        "stream": False,
        **fields,
    }
    return TokenizedGenerateReqInput(**values)


def test_an_ordinary_request_is_admitted() -> None:
    sampling = {"stop": ["x"], "logit_bias": {"5": -100.0}, "stop_regex": "a+b", "top_k": 40}
    assert refusal(tokenized(sampling=sampling), LIMITS) is None


@pytest.mark.parametrize(("name", "values"), SHORT_LISTS)
def test_a_list_for_fewer_prompts_than_there_are_is_refused(name: str, values: list[Any]) -> None:
    """Stock SGLang answers 500; it finds out where it takes the second prompt's."""
    request = GenerateReqInput(text=["a", "b"], **{name: values})
    with pytest.raises(ValueError, match="1 values for 2 prompts|extra_key"):
        hooks._normalize(GenerateReqInput.normalize_batch_and_arguments, request)


@pytest.mark.parametrize(
    "body",
    [
        {"text": ["a", "b"], "return_logprob": [True, False], "lora_path": [None, None]},
        {"text": ["a", "b"], "sampling_params": {"n": 2}, "top_logprobs_num": 2},
        {"text": "a", "sampling_params": {"n": 3}, "return_logprob": True},
        {"text": ["a"], "sampling_params": [{}]},
    ],
)
def test_values_for_all_prompts_are_taken(body: dict[str, Any]) -> None:
    request = GenerateReqInput(**body)
    hooks._normalize(GenerateReqInput.normalize_batch_and_arguments, request)
    assert [request[i].text for i in range(request.batch_size)]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ids": [4096]}, "token id 4096; the vocabulary has the ids 0 to 4095"),
    ({"ids": [-1]}, "token id -1"),
    ({"ids": [5, 99999, 6]}, "token id 99999"),
    ({"ids": []}, "at least one token"),
    ({"top_logprobs_num": 5000}, "from 0 to 1024, got 5000"),
    ({"top_logprobs_num": -1}, "from 0 to 1024, got -1"),
    ({"top_logprobs_num": "3"}, "top_logprobs_num has a wrong type"),
    ({"logprob_start_len": -2}, "at least -1"),
    ({"input_embeds": [[0.0] * 192]}, "input_embeds does not work with this model"),
    ({"input_embeds": []}, "input_embeds does not work with this model"),
    ({"sampling": {"max_new_tokens": 1.5}}, "max_new_tokens has a wrong type"),
    ({"sampling": {"regex": 5}}, "regex has a wrong type"),
    ({"sampling": {"sampling_seed": 2**64}}, "sampling_seed has a wrong type"),
    ({"sampling": {"logit_bias": {"5": float("inf")}}}, "finite float32"),
    ({"sampling": {"logit_bias": {"5": 1e39}}}, "finite float32"),
    ({"sampling": {"stop_token_ids": [4096]}}, "stop_token_ids contains 4096"),
    ({"sampling": {"stop_regex": "(a+)+$"}}, "repeats a repetition"),
    ({"sampling": {"stop_regex": ["x", "((a|b*)c)*"]}}, "repeats a repetition"),
    ({"sampling": {"regex": "a" * 8193}}, "regex has 8,193 characters; it may have at most 8,192"),
    ({"sampling": {"json_schema": "[" * 201}}, "json_schema nests 201 brackets"),
    ({"sampling": {"ebnf": "root ::= " + "(" * 300 + ")" * 300}}, "ebnf nests 300 brackets"),
    ({"sampling": {"structural_tag": "x" * 2**18 + "x"}}, "structural_tag has 262,145"),
    ({"custom_logit_processor": "x"}, "custom_logit_processor does not work with speculative"),
    ({"return_hidden_states": True}, "return_hidden_states does not work with EAGLE3"),
    ({"return_hidden_states": "last"}, "return_hidden_states does not work with EAGLE3"),
    ({"positional_embed_overrides": [1]}, "positional_embed_overrides has a wrong type"),
    ({"multi_item_delimiter_indices": [1]}, "--enable-mis"),
    ({"priority": 2**70}, "priority has a wrong type"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED, ids=[str(f)[:40] for f, _ in REFUSED])
def test_what_would_end_the_scheduler_is_refused_in_one_sentence(
    fields: dict[str, Any], reason: str
) -> None:
    found = refusal(tokenized(**fields), LIMITS)
    assert found is not None
    assert reason in found
    assert "\n" not in found


TIGHT = Limits(4096, bounds=Bounds(prompt=3, answer=8, depth=4))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ids": [1] * 4}, "The prompt has 4 tokens; this server takes at most 3."),
        ({"sampling": {"max_new_tokens": 9}}, "9 tokens are asked for (max_tokens)"),
        ({"sampling": {"max_new_tokens": 8, "json_schema": "[" * 5}}, "nests 5 brackets in one"),
    ],
)
def test_what_a_server_s_limits_do_not_allow_is_refused(
    fields: dict[str, Any], reason: str
) -> None:
    found = refusal(tokenized(**fields), TIGHT)
    assert found is not None
    assert reason in found
    assert refusal(tokenized(**fields), Limits(4096)) is None


def test_what_they_allow_is_admitted() -> None:
    sampling = {"max_new_tokens": 8, "json_schema": "[[[[", "min_new_tokens": 8}
    assert refusal(tokenized(ids=[1] * 3, sampling=sampling), TIGHT) is None


def test_an_answer_without_an_end_ends_at_the_limit() -> None:
    asked = tokenized(sampling={"max_new_tokens": None, "min_new_tokens": 20})
    admission.adjust(asked, Limits(4096))
    assert asked.sampling_params.max_new_tokens is None
    admission.adjust(asked, TIGHT)
    assert asked.sampling_params.max_new_tokens == 8
    assert asked.sampling_params.min_new_tokens == 8
    shorter = tokenized(sampling={"max_new_tokens": 5})
    admission.adjust(shorter, TIGHT)
    assert shorter.sampling_params.max_new_tokens == 5


def test_a_grammar_that_cannot_take_tokens_back_is_refused_with_drafts() -> None:
    """SGLang raises NotImplementedError in the scheduler."""
    outlines = Limits(4096, speculative=True, grammar_backend="outlines")
    reason = refusal(tokenized(sampling={"regex": "a+"}), outlines)
    assert reason is not None
    assert "Start the server with xgrammar" in reason
    assert refusal(tokenized(), outlines) is None
    plain = Limits(4096, grammar_backend="outlines")
    assert refusal(tokenized(sampling={"regex": "a+"}), plain) is None


def test_without_speculation_more_is_served() -> None:
    plain = Limits(vocab_size=4096)
    assert refusal(tokenized(return_hidden_states=True), plain) is None
    assert refusal(tokenized(custom_logit_processor="x"), plain) is None


def test_a_top_k_beyond_the_vocabulary_takes_every_token() -> None:
    request = tokenized(sampling={"top_k": 2**40})
    admission.adjust(request, LIMITS)
    assert request.sampling_params.top_k == 1 << 30
    request = tokenized(sampling={"top_k": 40})
    admission.adjust(request, LIMITS)
    assert request.sampling_params.top_k == 40


@pytest.mark.parametrize("n", [0, -1, 129, 10**9, 1.5, "3", True])
def test_a_number_of_choices_that_cannot_be_is_refused(n: Any) -> None:
    assert admission.too_many_choices(n, 128) is not None
    assert admission.too_many_choices(128, 128) is None


def test_every_field_of_a_request_is_looked_at() -> None:
    """So that a field that a later release adds is not taken unseen."""
    unchecked = set(TokenizedGenerateReqInput.__struct_fields__) - {
        name for name, _ in admission._kinds(TokenizedGenerateReqInput)
    }
    # 0.5.23 has no mm_data_mooncake.
    assert unchecked | {"mm_data_mooncake"} == admission._UNCHECKED
    assert {name for name, _ in admission._kinds(SamplingParams)} == set(
        SamplingParams.__struct_fields__
    )
    assert "sampling_params" in GenerateReqInput.__dataclass_fields__


def request(max_new_tokens: int, **sampling: Any) -> Req:
    asked = SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0, **sampling)
    asked.normalize(Letters())
    made = Req("a", "", array("q", [1]), asked, vocab_size=4096)
    made.tokenizer = Letters()
    return made


def end(made: Req, tokens: list[int], steps: list[int], hooked: bool) -> tuple[Any, ...]:
    """Say the tokens in steps of these sizes until the request ends: why and with what."""
    at = 0
    for size in steps:
        new = tokens[at : at + size]
        at += size
        made.output_ids.extend(new)
        if hooked:
            endings.update_finish_state(Req.update_finish_state, made, len(new))
        else:
            made.update_finish_state(len(new))
        if made.finished():
            break
    reason = made.finished_reason.to_json() if made.finished_reason else None
    return reason, list(made.output_ids_through_stop)


def test_an_answer_ends_where_it_ends_token_by_token_whatever_the_steps() -> None:
    """Random texts over few letters, with everything that can end them."""
    rng = random.Random(5)
    ended = 0
    for _ in range(400):
        tokens = [rng.choice([97, 98, 99, 0]) for _ in range(24)]
        sampling: dict[str, Any] = {
            "stop": rng.choice([None, ["ab"], ["cab", "bb"], ["abcabc"]]),
            "stop_token_ids": rng.choice([None, [98], [99]]),
            "stop_regex": rng.choice([None, "a[bc]a"]),
            "ignore_eos": rng.choice([False, False, True]),
        }
        most = rng.randint(1, 20)
        steps: list[int] = []
        while sum(steps) < len(tokens):
            steps.append(min(rng.randint(1, 5), len(tokens) - sum(steps)))
        one_by_one = end(request(most, **sampling), tokens, [1] * len(tokens), hooked=False)
        in_steps = end(request(most, **sampling), tokens, steps, hooked=True)
        assert in_steps == one_by_one, (sampling, most, steps, tokens)
        ended += one_by_one[0]["type"] == "stop"
    assert ended > 100


def test_the_tokens_behind_the_end_stay_in_the_request() -> None:
    """The cache holds their KV, and SGLang counts by them."""
    made = request(10)
    end(made, [97, 0, 98, 99], [4], hooked=True)
    assert list(made.output_ids) == [97, 0, 98, 99]
    assert made.finished_len == 2


class Grammar:
    """Complete after three tokens."""

    def __init__(self) -> None:
        self.accepted_tokens: list[int] = []

    def is_terminated(self) -> bool:
        return len(self.accepted_tokens) >= 3


@pytest.mark.parametrize("late", [False, True], ids=["verified", "decoded"])
def test_an_answer_ends_with_its_grammar_and_not_one_token_later(late: bool) -> None:
    """Without speculation SGLang advances the grammar behind the question whether it is over."""
    made = request(10, ignore_eos=True)
    grammar = Grammar()
    made.grammar = grammar
    for token in (97, 98, 0, 99):
        if not late and len(grammar.accepted_tokens) < 3:
            grammar.accepted_tokens.append(token)
        made.output_ids.append(token)
        endings.update_finish_state(Req.update_finish_state, made, 1)
        if made.finished():
            break
        if late:
            grammar.accepted_tokens.append(token)
    assert list(made.output_ids_through_stop) == [97, 98, 0]
    assert made.finished_reason.to_json() == {"type": "stop", "matched": 0}
    assert made.grammar is grammar


def test_room_counts_the_prompt_as_it_is() -> None:
    assert room.too_long(4083, 1, 4096, 12) is None
    reason = room.too_long(4084, 4, 4096, 12)
    assert reason is not None
    assert "The prompt has 4084 tokens; it may have at most 4083" in reason
    reason = room.too_long(4000, 200, 4096, 12)
    assert reason is not None
    assert "4200 together; there is room for 4084" in reason
    assert room.most_new_tokens(200, 4096, 12, 1200, 1) == 1200 - 200 - 24 - 1
    assert room.most_new_tokens(4000, 4096, 12, 32768, 1) == 84
    assert room.most_new_tokens(1190, 4096, 12, 1200, 1) == 0


def test_a_prompt_that_fits_is_left_to_sglang() -> None:
    manager = SimpleNamespace(
        num_reserved_tokens=12,
        allow_auto_truncate=False,
        validate_total_tokens=True,
        context_len=4096,
    )
    asked = SimpleNamespace(sampling_params={"max_new_tokens": 5})
    called: list[Any] = []
    room.validate_one_request(lambda *a: called.append(a), manager, asked, [1] * 10)
    assert len(called) == 1
    with pytest.raises(ValueError, match="has 4080 tokens and 5 more"):
        room.validate_one_request(lambda *a: called.append(a), manager, asked, [1] * 4080)


def test_logprobs_of_given_tokens_are_tensors_for_every_request_of_a_batch() -> None:
    """SGLang calls `tolist` of each where a batch asks for them at all."""
    from sglang.srt.layers import logprob_processor

    table = torch.log_softmax(torch.randn(3, 8), dim=-1)
    values, ids = logprobs.of_token_ids(
        logprob_processor.get_token_ids_logprobs_raw,
        table,
        [None, [2, 5], None],
        stage=logprob_processor.LogprobStage.DECODE,
        no_copy_to_cpu=True,
    )
    assert [value.tolist() for value in values] == [[], table[1, [2, 5]].tolist(), []]
    assert ids == [[], [2, 5], []]


@pytest.mark.parametrize("ours", [False, True])
def test_a_request_that_is_retracted_before_its_first_token_keeps_its_logprob(ours: bool) -> None:
    """SGLang 0.5.17 counts it as sent when it sends the request without any token."""
    from sglang.srt.disaggregation.utils import DisaggregationMode
    from sglang.srt.managers.scheduler_components.output_streamer import (
        _GenerationStreamAccumulator as Accumulator,
    )
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    hook = next(h for h in hooks.HOOKS if h.target.endswith("Accumulator.accept"))
    if hook.target not in contract.require(["requests"]).hooked("requests"):
        pytest.skip("this release has mended it itself")
    made = request(3)
    made.return_logprob = True
    fields = ("token_logprobs", "top_logprobs", "token_ids_logprobs")
    for name in (f"output_{field}_{half}" for field in fields for half in ("val", "idx")):
        setattr(made.logprob, name, [])

    def sent() -> list[float]:
        accumulator = Accumulator(
            return_logprob=True,
            return_hidden_states=False,
            return_routed_experts=False,
            return_indexer_topk=False,
            spec_algorithm=SpeculativeAlgorithm.EAGLE3,
            disaggregation_mode=DisaggregationMode.NULL,
            default_stream_interval=1,
            default_force_stream_interval=50,
            get_cached_tokens_details=lambda req: None,
        )
        if ours:
            hook.replacement(Accumulator.accept, accumulator, req=made)
        else:
            accumulator.accept(req=made)
        return [value for values in accumulator.output_token_logprobs_val for value in values]

    made.is_retracted = True
    assert sent() == []
    made.is_retracted = False
    for token, value in enumerate((-0.1, -0.2, -0.3), start=5):
        made.output_ids.append(token)
        made.logprob.output_token_logprobs_val.append(value)
        made.logprob.output_token_logprobs_idx.append(token)
    made.update_finish_state(3)
    assert sent() == ([-0.1, -0.2, -0.3] if ours else [-0.2, -0.3])


AMBIGUOUS = "root ::= x*\nx ::= y*\ny ::= z*\nz ::= [a-z]*"


@pytest.mark.parametrize(
    ("rules", "ranks", "thinks", "ends"),
    [
        (AMBIGUOUS, 1, False, True),
        (AMBIGUOUS, 1, True, True),
        ("root ::= [a-z]*", 1, False, False),
        (AMBIGUOUS, 2, False, False),
    ],
    ids=["ambiguous", "behind a reasoning parser", "plain", "ranks go by clocks of their own"],
)
def test_a_grammar_that_takes_longer_with_each_token_ends_its_own_request_only(
    monkeypatch: pytest.MonkeyPatch, rules: str, ranks: int, thinks: bool, ends: bool
) -> None:
    from sglang.srt import runtime_context
    from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend
    from sglang.srt.managers.scheduler_components.batch_result_processor import (
        SchedulerBatchResultProcessor,
    )
    from transformers import AutoTokenizer

    monkeypatch.setattr(grammars, "SECONDS", 0.5)
    monkeypatch.setattr(grammars, "SECONDS_PER_TOKEN", 0.002)
    tokenizer = AutoTokenizer.from_pretrained(demo_pair().target)
    backend = XGrammarGrammarBackend(tokenizer, 4096, [tokenizer.eos_token_id])
    followed = backend.dispatch_ebnf(rules)
    accept, fill = type(followed).accept_token, type(followed).fill_vocab_mask
    followed.accept_token = lambda token: grammars.timed(accept, followed, token)
    made = request(10, ignore_eos=True)
    made.grammar = ReasonerGrammarObject(followed, [0]) if thinks else followed
    if thinks:
        made.grammar.maybe_init_reasoning(False)
    started = SimpleNamespace(tp_size=ranks, pp_size=1)
    monkeypatch.setattr(runtime_context, "get_server_args", lambda: started)
    mask = torch.zeros((1, 128), dtype=torch.int32)
    letter = tokenizer.convert_tokens_to_ids("a")
    for _ in range(200):
        grammars.timed(fill, followed, mask, 0)
        made.output_ids.append(letter)
        kept = grammars.accept_tokens(
            SchedulerBatchResultProcessor._accept_grammar_tokens, None, made, letter
        )
        assert kept == [letter]
        if made.to_finish is not None or followed.seconds > 2:
            break
    assert (made.to_finish is not None) == ends
    if ends:
        said = made.to_finish.to_json()
        assert said["status_code"] == 400
        assert "it is ambiguous" in said["message"]
