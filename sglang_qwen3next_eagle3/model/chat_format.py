"""Prompts in the target's chat format, as token ids."""

from collections.abc import Sequence
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.load.load import Conversation
from sglang_qwen3next_eagle3.bench.suites.suites import Prompt
from sglang_qwen3next_eagle3.model import hub


class ChatFormat:
    """The target's tokenizer and template."""

    def __init__(self, target: str, revision: str | None = None) -> None:
        """target: folder, hub name or `demo`. Raises UserError: it has no tokenizer."""
        from transformers import AutoTokenizer

        try:
            # Of a hub name, the tokenizer's files and nothing else.
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(hub.local_folder(target) or target), revision=revision
            )
        except UserError:
            raise
        except Exception as error:  # tokenizers raises nothing more special
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{target} has no tokenizer that can be read ({reason})") from None
        if not self._tokenizer.chat_template:
            raise UserError(f"{target} has no chat template: give --tokenizer with one")

    def conversation(self, prompt: Prompt) -> Conversation:
        # Before any clock runs.
        first = self._turn(prompt, ())
        return Conversation(prompt.id, lambda a: self._turn(prompt, a) if a else first)

    def _turn(self, prompt: Prompt, answers: Sequence[tuple[int, ...]]) -> list[int] | None:
        if len(answers) == len(prompt.turns):
            return None
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        for place, turn in enumerate(prompt.turns[: len(answers) + 1]):
            messages.append({"role": "user", "content": turn})
            if place < len(answers):
                text = self._tokenizer.decode(answers[place], skip_special_tokens=True)
                messages.append({"role": "assistant", "content": text})
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )
        return list(encoded["input_ids"])
