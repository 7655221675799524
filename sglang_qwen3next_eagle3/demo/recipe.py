"""What the demo pair is made of: sizes, the residual stream's slots, codes and the lexicon.

Both models keep the same things in the same places of a 256 wide residual stream:

    A  0:64     code of the newest token, from the embedding
    B  64:112   first 48 entries of the code one token back, written by attention layer 3
    C  112:160  the same two tokens back, written by attention layer 7
    D  160:192  first 32 entries of the code three tokens back, written by attention layer 11
    E  192:240  topic: averages of the codes over about 8 to 40 tokens, written by GDN layer 0
    N  240:255  noise
    1  255      the constant 1, which nothing else is ever added to

`lexicon` maps that stream to logits. It is a perceptron over the corpus whose features, weights
and scores are all small integers: floating point adds nothing that could differ between machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_qwen3next_eagle3.demo.tokenizer import chat_turns, corpus

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

SEED = 4  # chosen for wide gaps between the two best logits

HIDDEN = 256
LAYERS = 12
INTERVAL = 4
ATTENTION_LAYERS = (3, 7, 11)
VOCAB = 896
DRAFT_VOCAB = 448
CONTEXT = 4096
ROPE_THETA = 10000.0
EPS = 1e-6

HEAD_DIM = 64
HEADS = 4
KV_HEADS = 2
PARTIAL_ROTARY = 0.25

KEY_HEADS = 2
VALUE_HEADS = 4
GDN_DIM = 32
CONV = 4

EXPERTS = 8
EXPERTS_PER_TOKEN = 2
EXPERT_WIDTH = 32
SHARED_WIDTH = 64

A, B, C, D = slice(0, 64), slice(64, 112), slice(112, 160), slice(160, 192)
E, N = slice(192, 240), slice(240, 255)
ONE = 255
B_WIDTH, D_WIDTH = 48, 32

# RMS of an embedding row: 64 code entries of size 1 and the constant.
EMBED_RMS = float(np.sqrt(65 / 256))

# GDN layer 0: the share of the newest token in each value head's average.
TOPIC_RATES = (0.03, 0.06, 0.12, 0.3)
TOPIC_DECAY = 0.9933  # exp(-softplus(-5))
TOPIC_GAIN = 0.7
# silu of what the topic heads see of a code: sizes 1 / EMBED_RMS = 1.984.
SILU_UP, SILU_DOWN = 1.7449, -0.2396

# Integer features of the perceptron: 1.0 of the residual stream is UNIT.
UNIT = 4
EPOCHS = 24
BATCH = 8
MARGIN = 6000
JITTER = 3


@dataclass(frozen=True)
class Randomness:
    """A stream of numbers that numpy promises to keep (RandomState is frozen)."""

    state: np.random.RandomState

    @classmethod
    def of(cls, name: str) -> "Randomness":
        seed = sum((i + 1) * ord(char) for i, char in enumerate(name)) + 7919 * SEED
        return cls(np.random.RandomState(seed))

    def noise(self, shape: Sequence[int], std: float) -> Float:
        """Uniform numbers of the given standard deviation, as float32."""
        whole = self.state.randint(-127, 128, size=tuple(shape)).astype(np.float64)
        return (whole * (std / 73.32)).astype(np.float32)

    def signs(self, shape: Sequence[int]) -> Int:
        return (2 * self.state.randint(0, 2, size=tuple(shape)) - 1).astype(np.int64)


def codes() -> Int:
    """The code of every token, [VOCAB, 64] of -1 and 1."""
    return Randomness.of("codes").signs((VOCAB, A.stop))


def embedding() -> Float:
    """[VOCAB, HIDDEN]; every row has the same norm, so a layer norm scales all alike."""
    table = np.zeros((VOCAB, HIDDEN), dtype=np.float32)
    table[:, A] = codes()
    table[:, ONE] = 1.0
    return table


def features(ids: Sequence[int]) -> Int:
    """The residual stream before the final norm without any layer's noise, [T, HIDDEN], in
    integers: UNIT times the stream. Slots that look back before the first token stay 0."""
    code = codes()[list(ids)]
    stream = np.zeros((len(ids), HIDDEN), dtype=np.int64)
    stream[:, A] = UNIT * code
    stream[1:, B] = UNIT * code[:-1, :B_WIDTH]
    stream[2:, C] = UNIT * code[:-2, :B_WIDTH]
    stream[3:, D] = UNIT * code[:-3, :D_WIDTH]
    stream[:, E] = _topic(code)
    stream[:, ONE] = UNIT
    return stream


def _topic(code: Int) -> Int:
    """The gated delta rule with one constant key is an average that forgets; its output norm
    makes the size of every head 1. A value head sees 16 entries and their negatives."""
    out = np.zeros((len(code), 48), dtype=np.int64)
    for head, rate in enumerate(TOPIC_RATES[:3]):
        own = code[:, 16 * head : 16 * head + 16]
        up = np.where(own > 0, SILU_UP, SILU_DOWN)
        down = np.where(own > 0, SILU_DOWN, SILU_UP)
        state = np.zeros((2, 16))
        for t in range(len(code)):
            value = np.stack([up[t], down[t]])
            state = state * (TOPIC_DECAY * (1 - rate)) + rate * value
            rms = np.sqrt(np.sum(state * state) / 32)
            out[t, 16 * head : 16 * head + 16] = np.rint(
                UNIT * TOPIC_GAIN * (state[0] - state[1]) / rms
            )
    return out


def texts(encode: Any) -> list[tuple[list[int], int]]:
    """Token ids to learn from, and where the first answer of each begins. The answer to a
    question is followed by the next answer, so that the text has no end to run into."""
    pairs = corpus()
    found = []
    for i, (question, answer) in enumerate(pairs):
        prompt = encode(chat_turns(question, ""))
        body = encode(answer + "\n\n") + encode(pairs[(i + 1) % len(pairs)][1] + "\n\n")
        found.append((prompt + body, len(prompt)))
    return found


def lexicon(samples: Sequence[tuple[Sequence[int], int]]) -> Int:
    """Rows that score the next token, [VOCAB, HIDDEN] of integers.

    A multi-class perceptron with a margin: for every position at which a wrong token scores
    within MARGIN of the right one, the features are added to the right row and taken from the
    wrong one. Jitter on the features stands for the noise that the layers will add.
    """
    inputs = np.concatenate([features(ids)[start - 1 : -1] for ids, start in samples])
    labels = np.concatenate([np.array(ids[start:]) for ids, start in samples])
    used = np.unique(labels)
    column = np.searchsorted(used, labels)
    random = Randomness.of("lexicon").state
    rows = np.zeros((len(used), HIDDEN))  # whole numbers: exact in any order of addition
    free = [i for i in range(HIDDEN) if not N.start <= i < N.stop]
    for _ in range(EPOCHS):
        order = random.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            pick = order[start : start + BATCH]
            batch = inputs[pick].astype(np.float64)
            batch[:, free[:-1]] += random.randint(
                -JITTER, JITTER + 1, size=(len(pick), len(free) - 1)
            )
            right = column[pick]
            scores = _scores(batch, rows)
            at = np.arange(len(pick))
            own = scores[at, right].copy()
            scores[at, right] = -np.inf
            wrong = scores.argmax(axis=1)
            short = own - scores[at, wrong] < MARGIN
            np.add.at(rows, right[short], batch[short])
            np.subtract.at(rows, wrong[short], batch[short])
    table = np.zeros((VOCAB, HIDDEN), dtype=np.int64)
    table[:, ONE] = -MARGIN  # tokens that the corpus does not teach stay out of reach
    table[used] = rows.astype(np.int64)
    return table


def _scores(batch: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> Any:
    """batch @ rows.T in pieces that OpenBLAS computes in one thread (fewer than 64**3 products):
    twelve thousand hand-overs to a second thread take minutes when the cores are busy."""
    pieces = range(0, len(rows), 64)
    return np.concatenate([batch @ rows[i : i + 64].T for i in pieces], axis=1)
