"""A head's tensors against what SGLang 0.5.17 will read of them (models/llama_eagle3.py)."""

from collections.abc import Iterator, Sequence

from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.head.head import Head, is_eagle1
from sglang_qwen3next_eagle3.model.target import Target

FLOATS = {"F32", "F16", "BF16"}
UNUSED = {"t2d", "embed_tokens.weight"}
"""Of the published names, those that SGLang does not read."""
EXPORT_AGAIN = "export it again (`specforge export --to sglang`)"


def tensors(head: Head) -> Iterator[Finding]:
    """Names, shapes and dtypes. The config must have been found complete."""
    if is_eagle1(head.tensors):
        yield error(
            "eagle1",
            "its config.json says EAGLE3, its tensors are an EAGLE-1 head's (fc takes the "
            "embedding and one state)",
            "serve it with SGLang's --speculative-algorithm EAGLE, or give an EAGLE3 head",
        )
        return
    expected = head.expected_tensors()
    missing = [name for name in expected if name not in head.tensors]
    if missing:
        yield error(
            "tensor-missing",
            f"it lacks {_count(missing)}, and SGLang would draft with random ones",
            EXPORT_AGAIN,
        )
    for name, shape in expected.items():
        info = head.tensors.get(name)
        if info is None:
            continue
        if info.shape != shape:
            yield _shape(head, name, info.shape, shape)
        if name != "d2t" and info.dtype not in FLOATS:
            yield error(
                "tensor-dtype",
                f"{name} is stored as {info.dtype}, SGLang takes a head's numbers as they stand",
                "export it in BF16",
            )
    unknown = [name for name in head.tensors if name not in expected and name not in UNUSED]
    if unknown:
        yield warning(
            "tensor-unknown",
            f"SGLang does not know and skips {_count(unknown)}",
            "a head that was trained with them will not draft as trained",
        )
    embedding = head.tensors.get("embed_tokens.weight")
    if embedding is not None and "embed_tokens.weight" not in expected:
        yield note(
            "embedding",
            f"its own embedding ({embedding.bytes / 2**20:.1f} MiB) is not used, the target's is "
            "shared",
        )


def vocabulary(head: Head, target: Target) -> Iterator[Finding]:
    """d2t, t2d, and what of the target's vocabulary cannot be drafted."""
    stored, vocab = head.tensors.get("d2t"), int(head.config["vocab_size"])
    if stored is None:
        return
    if head.vocabulary is None:
        yield error(
            "d2t", f"d2t is stored as {stored.dtype}, not as whole numbers", "store it as int64"
        )
        return
    offsets, ids = head.vocabulary.offsets, head.vocabulary.target_ids
    known = head.vocabulary.known
    listed = None if known is None else [token for token, has in enumerate(known) if has]
    if listed is not None and list(offsets) == listed != list(ids):
        yield error(
            "d2t",
            "d2t holds the target's token ids, SGLang expects offsets (id minus index)",
            "subtract torch.arange(len(d2t)) from it",
        )
        return
    outside = [i for i, token in enumerate(ids) if not 0 <= token < vocab]
    if outside:
        yield error(
            "d2t",
            f"d2t maps {len(outside)} draft tokens out of the vocabulary of {vocab}, first draft "
            f"token {outside[0]} to {ids[outside[0]]}",
            EXPORT_AGAIN,
        )
        return
    if len(set(ids)) < len(ids):
        yield warning(
            "d2t",
            f"d2t maps {len(ids) - len(set(ids))} draft tokens to a token that another one has",
            EXPORT_AGAIN,
        )
    if listed is not None and set(listed) != set(ids):
        yield warning(
            "t2d",
            f"d2t and t2d disagree about {len(set(listed) ^ set(ids))} tokens; SGLang reads d2t",
            "make sure that both are of one training run",
        )
    absent = sorted(_ends(target) - set(ids))
    if absent:
        yield warning(
            "end-of-text",
            f"its draft vocabulary lacks the target's end of text ({', '.join(map(str, absent))}), "
            "so that the end of an answer is never drafted",
            "build the draft vocabulary with the special tokens in it",
        )


def _shape(head: Head, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> Finding:
    text = f"{name} is {_dims(found)}, its config.json and the target ask for {_dims(wanted)}"
    if name in {"lm_head.weight", "d2t"} and found[1:] == wanted[1:]:
        return error(
            "draft-vocab-size",
            f"{text}: its config.json says draft_vocab_size {head.draft_vocab_size}",
            f"set draft_vocab_size to {found[0]}",
        )
    if len(found) == 2 and found == wanted[::-1]:
        return error("tensor-transposed", f"{text}: it is transposed", "store its transpose")
    return error("tensor-shape", text, EXPORT_AGAIN)


def _ends(target: Target) -> set[int]:
    end = target.config.get("eos_token_id")
    return set(end) if isinstance(end, list) else {end} if isinstance(end, int) else set()


def _count(names: Sequence[str]) -> str:
    noun = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {noun}, {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def _dims(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
