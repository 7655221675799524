"""What a head is calibrated on: the target's own answers, texts as they are given, or noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import answers, prompts
from sglang_qwen3next_eagle3.calibrate.answers import Decoder, Questions
from sglang_qwen3next_eagle3.calibrate.options import CalibrationOptions
from sglang_qwen3next_eagle3.calibrate.prompts import MIN_TOKENS, Sample
from sglang_qwen3next_eagle3.model.target import Target

OWN, GIVEN, RANDOM = "own answers", "as given", "random tokens"
RANDOM_PROMPTS = 24
DUMMY = "dummy"


@dataclass(frozen=True)
class Source:
    """kind: one of the three. texts: token ids, those of `asked` where the target answers them with
    at most `answer_tokens` each."""

    kind: str
    texts: list[list[int]]
    asked: Questions | None = None
    answer_tokens: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest text there may be."""
        return max(map(len, self.texts)) + self.answer_tokens

    @property
    def most(self) -> int:
        """Tokens of all texts, at most."""
        return sum(map(len, self.texts)) + self.answer_tokens * len(self.texts)

    def left_out(self, samples: Sequence[Sample]) -> int:
        """Prompts that did not make it into what `samples` returned."""
        return 0 if self.asked is None else self.asked.left_out + len(self.texts) - len(samples)

    def samples(
        self, decoder: Decoder, steps: int, done: Callable[[], None] = lambda: None
    ) -> list[Sample]:
        """The texts, answered. steps: drafts in a chain. done: called `answer_tokens` times a text.

        Raises:
            UserError: no answer is long enough, or SGLang failed.
        """
        if self.asked is None:
            return [Sample(ids) for ids in self.texts]
        fewest = max(steps + 2, min(MIN_TOKENS, self.answer_tokens))
        return answers.answer(decoder, self.asked, self.answer_tokens, fewest, done)


def source_of(options: CalibrationOptions, target: Target, folder: Path) -> Source:
    """What the options ask for. folder: the target's.

    Raises:
        UserError: the prompts or the target's tokenizer do not allow it, or texts are too short.
    """
    most, length = options.max_prompts, options.max_length
    regenerate = options.regenerate
    if options.load_format == DUMMY:
        if regenerate:
            raise UserError("--regenerate needs the target's weights: leave --load-format out")
        texts = prompts.random_tokens(target, most or RANDOM_PROMPTS, length)
        return _long_enough(Source(RANDOM, texts), options.steps)
    file = options.prompts
    if regenerate if regenerate is not None else file is None:
        chats = prompts.read(file) if file else prompts.built_in_questions()
        asked = answers.questions(chats[:most], folder, target, length)
        if options.answer_tokens <= options.steps + 1:
            raise UserError(
                f"{options.steps} draft steps need --answer-tokens above {options.steps + 1}"
            )
        return Source(OWN, asked.ids, asked, options.answer_tokens)
    given = prompts.read(file) if file else prompts.built_in()
    # Prompts are counted, as where they are answered; a long one is cut into several texts.
    texts = prompts.tokenize(given[:most], folder, length)
    return _long_enough(Source(GIVEN, texts), options.steps)


def _long_enough(source: Source, steps: int) -> Source:
    if min(map(len, source.texts)) <= steps + 1:
        raise UserError(f"{steps} draft steps need prompts of more than {steps + 1} tokens")
    return source
