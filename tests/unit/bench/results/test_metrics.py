import pytest

from sglang_qwen3next_eagle3.bench.results import metrics
from sglang_qwen3next_eagle3.bench.results.records import RequestSample
from tests.support.bench_results import plain, sample


def test_tokens_that_come_together_share_their_time() -> None:
    times = metrics.inter_token_seconds(sample())
    assert times == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1])
    bursts = sample(chunks=((0.5, 1), (0.7, 2), (1.0, 6)))
    assert metrics.inter_token_seconds(bursts) == pytest.approx([0.2, 0.075, 0.075, 0.075, 0.075])


def test_the_decode_rate_leaves_the_first_token_out() -> None:
    assert metrics.decode_rate(sample()) == pytest.approx(5 / 0.5)
    assert metrics.decode_rate(sample(chunks=((0.5, 1),))) is None


def test_figures_of_two_requests_by_hand() -> None:
    other = sample(
        "b",
        seconds=2.0,
        completion_tokens=8,
        chunks=((0.5, 2), (1.5, 8)),
        first_token_seconds=0.7,
        verify_steps=5,
        accepted_drafts=1,
        histogram=(4, 1),
    )
    found = metrics.figures([sample(), other], 2.5, draft_tokens=8)
    assert (found.requests, found.completion_tokens, found.prompt_tokens) == (2, 14, 20)
    assert found.output_tok_s == pytest.approx(14 / 2.5)
    assert found.request_tok_s == pytest.approx((6 / 1.2 + 8 / 2.0) / 2)
    assert found.decode_tok_s == pytest.approx((10 + 6) / 2)
    assert found.ttft.p50 == pytest.approx(0.6)
    assert found.ttft.p90 == pytest.approx(0.68)
    # Five times 0.1 s and six times 1/6 s.
    assert found.inter_token.p50 == pytest.approx(1 / 6)
    assert found.inter_token.p99 == pytest.approx(1 / 6)
    assert found.verify_steps == 7
    assert found.accept_length == pytest.approx(14 / 7), "sums over requests, no mean of ratios"
    assert found.card_accept_rate == pytest.approx(14 / 7 / 8)
    assert found.accept_rate == pytest.approx(4 / 28)
    # Of 7 steps 4 accepted none, 2 one and 1 two drafts.
    assert found.accept_by_position == pytest.approx((3 / 7, 1 / 7))


def test_without_speculation_there_is_no_accept_length() -> None:
    found = metrics.figures([sample(verify_steps=None, histogram=())], 1.0)
    assert found.accept_length is None
    assert found.card_accept_rate is None
    assert found.accept_by_position == ()


def test_no_answers_have_no_figures() -> None:
    with pytest.raises(ValueError, match="without answers"):
        metrics.figures([], 1.0)


@pytest.mark.parametrize(
    ("histograms", "shares"),
    [([], ()), ([()], ()), ([(5,)], ()), ([(1, 0, 3), (0, 4)], (7 / 8, 3 / 8))],
)
def test_acceptance_by_position(
    histograms: list[tuple[int, ...]], shares: tuple[float, ...]
) -> None:
    assert metrics.accept_by_position(histograms) == pytest.approx(shares)


def test_equal_answers_and_where_others_part() -> None:
    ours = [plain("a", (1, 2, 3)), plain("b", (1, 2, 3)), plain("c", (1, 2)), plain("d", (4,))]
    theirs = [plain("a", (1, 2, 3)), plain("b", (1, 9, 3)), plain("c", (1, 2, 3))]
    found = metrics.equality(ours, theirs)
    assert (found.equal, found.of) == (1, 3), "nobody knows what d should be"
    assert found.first_divergence == (1, 2)


def test_a_turn_counts_only_after_equal_ones() -> None:
    def asked(*ids: int) -> list[RequestSample]:
        names = ["a", "a", "a", "b", "b", "b"]
        return [plain(n, (i,), t) for n, i, t in zip(names, ids, (1, 2, 3) * 2, strict=True)]

    found = metrics.equality(asked(1, 5, 7, 2, 6, 8), asked(1, 4, 7, 2, 6, 8))
    # Of a the first two turns, of b all three; a's second differs, its third was asked otherwise.
    assert (found.equal, found.of) == (4, 5)
    found = metrics.equality(asked(9, 5, 7, 2, 6, 8), asked(1, 5, 7, 2, 6, 8))
    assert (found.equal, found.of) == (3, 4)
    assert found.first_divergence == (0,)


def test_an_id_may_look_like_a_turn() -> None:
    found = metrics.equality([plain("a#2", (1,))], [plain("a#2", (1,))])
    assert (found.equal, found.of) == (1, 1)


def test_answers_whose_tokens_are_not_known_do_not_count() -> None:
    unknown = plain("a", (1, 2)).model_copy(update={"output_ids": ()})
    assert metrics.equality([unknown], [unknown]).of == 0


def advancing(length: float, cycle_ms: float, cycles: int = 100) -> RequestSample:
    """A request whose cycles take so long and bring so many tokens each, after the prefill's."""
    tokens = 1 + round(length * cycles)
    chunks = ((0.5, 1), (0.5 + cycles * cycle_ms / 1000, tokens))
    return sample(chunks=chunks, completion_tokens=tokens, verify_steps=cycles)


@pytest.mark.parametrize(
    "lengths", [(1.5, 1.5, 1.5, 3.5, 3.5), (1.6, 1.7, 2.4, 3.2, 3.9), (2.0, 2.0)]
)
def test_a_cycle_is_as_long_however_the_requests_accept(lengths: tuple[float, ...]) -> None:
    figures = metrics.figures([advancing(length, 10.0) for length in lengths], 9.0)
    assert figures.cycle_ms == pytest.approx(10.0)


def test_without_speculation_a_cycle_is_a_token() -> None:
    plain_one = sample(verify_steps=None)
    assert metrics.figures([plain_one], 9.0).cycle_ms == pytest.approx(100.0)
    assert metrics.figures([sample(chunks=((0.5, 6),))], 9.0).cycle_ms is None


def test_what_a_cycle_brings_leaves_out_each_request_s_first_token() -> None:
    figures = metrics.figures([advancing(2.0, 10.0, cycles=10)] * 4, 9.0)
    assert figures.accept_length == pytest.approx(2.1), "4 x 21 tokens in 4 x 10 steps"
    assert figures.per_cycle == pytest.approx(2.0)
    assert metrics.figures([sample(verify_steps=None)], 9.0).per_cycle is None
