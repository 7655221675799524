"""A target's folder: a config, weights that nobody loads, a tokenizer whose tokens are bytes."""

import json
from pathlib import Path
from typing import Any

from tests.support import checkpoints
from tests.support.checkpoints import CODER_NEXT

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Drops what it finds in brackets from all answers but the last one, as reasoning models' do.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last %}{{ m['content'] }}{% else %}{{ m['content'].split(']')[-1] }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN = 8
CONFIG: dict[str, Any] = {
    **CODER_NEXT, "hidden_size": HIDDEN, "num_hidden_layers": 12, "max_position_embeddings": 4096,
    "bos_token_id": None, "eos_token_id": None,  # The tokenizer's.
}  # fmt: skip


def write_tokenizer(folder: Path, template: str | None = CHAT) -> Path:
    """Every byte is a token, but two line feeds in a row are one; and the two special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "ĊĊ"])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def write_target(folder: Path) -> Path:
    return write_tokenizer(checkpoints.write_target(folder, CONFIG))


def conversation(question: str, answer: str, id: str = "c") -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": id, "conversations": messages}


def write_data(path: Path, count: int) -> Path:
    """Conversations of different lengths."""
    lines = [conversation("q" * (i % 7 + 1), "a" * (i % 5 + 1), f"c{i}") for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
