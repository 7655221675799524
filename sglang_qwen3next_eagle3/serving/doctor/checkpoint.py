"""Whether a target's folder holds what a server reads: its weights, its tokenizer, its template."""

import math
from collections.abc import Iterator
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import shards
from sglang_qwen3next_eagle3.serving.doctor.weights import Tensor

_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


def weights(folder: Path) -> tuple[list[Tensor] | None, Finding]:
    """All tensors by their headers, None where they are not whole, and what there is to say."""
    files = Folder(folder)
    try:
        shards.check(files)
        found = shards.headers(files)
    except UserError as refused:
        return None, error("checkpoint", str(refused), means="SGLang stops, or serves noise")
    tensors = [
        Tensor(name, math.prod(place.shape), place.dtype) for name, (_, place) in found.items()
    ]
    count = len({file for file, _ in found.values()})
    several = f"{count} files" if count > 1 else "one file"
    return tensors, note("checkpoint", f"{folder}: {len(tensors):,} tensors in {several}, whole")


def tokenizer(folder: Path) -> Iterator[Finding]:
    """Its files, and the template that chat requests are written with."""
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        yield error(
            "tokenizer",
            f"{folder} has no tokenizer (tokenizer.json, or vocab.json and merges.txt)",
            "copy it from the published checkpoint, or pass `-- --tokenizer-path FOLDER`",
            "SGLang stops",
        )
        return
    config = folder / "tokenizer_config.json"
    try:
        told = parse_json(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError:
        yield error("tokenizer", f"{config} is not valid JSON", shards.AGAIN, "SGLang stops")
        return
    if not isinstance(told, dict):
        yield error("tokenizer", f"{config} holds no JSON object", shards.AGAIN, "SGLang stops")
        return
    if not list(folder.glob("chat_template*")) and not told.get("chat_template"):
        yield warning(
            "chat-template",
            f"{folder} has no chat template",
            "copy chat_template.jinja from the published checkpoint, or pass `-- --chat-template`",
            "/v1/chat/completions writes prompts that the model was not trained on",
        )
    else:
        yield note("tokenizer", "tokenizer and chat template are there")
