"""SGLang's adaptive drafting, which changes the number of steps while it serves: whether it will
start with these flags, and do anything.

SGLang 0.5.17, speculative/adaptive_spec_params.py and arg_groups/speculative_hook.py: the steps
must be among its candidates, or it ends with a traceback; with a tree of several branches, and with
some other flags, it logs that adaptive drafting is off and serves without it.
"""

from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded, parse_json
from sglang_qwen3next_eagle3.serving.flags import Parsed

ADAPTIVE, CONFIG = "--speculative-adaptive", "--speculative-adaptive-config"
CANDIDATES = frozenset({0, 1, 3, 7})
"""Of SGLang's own configuration, over all batch sizes."""
_EXCLUDED = (
    "--enable-dp-attention", "--enable-multi-layer-eagle", "--enable-two-batch-overlap",
    "--enable-pdmux",
)  # fmt: skip


def check(given: Parsed) -> None:
    """Raises UserError: adaptive drafting is asked for, and cannot be or would not take place."""
    if not given.of(ADAPTIVE):
        if given.of(CONFIG):
            raise UserError(f"{CONFIG} says nothing without {ADAPTIVE}: add it")
        return
    if not given.value("--speculative-algorithm"):
        raise UserError(f"{ADAPTIVE}: nothing drafts here; leave it out")
    topk = given.number("--speculative-eagle-topk")
    if topk not in (None, 1):
        raise UserError(
            f"{ADAPTIVE} is for chains, with topk {topk} SGLang serves without it: take a chain, "
            "for example --tree 3,1,4"
        )
    for name in _EXCLUDED:
        if given.of(name):
            raise UserError(f"{ADAPTIVE}: with {name} SGLang serves without it; leave one out")
    file = given.value(CONFIG)
    candidates = CANDIDATES if file is None else _candidates(expanded(file))
    steps = given.number("--speculative-num-steps")
    if steps is None:  # SGLang's own, where no tree is given.
        steps = 3
    if steps not in candidates:
        trees = " or ".join(f"{n},1,{n + 1}" for n in sorted(candidates) if n)
        raise UserError(
            f"{ADAPTIVE} begins with one of its candidates, {_listed(candidates)} steps, not with "
            f"{steps}: use --tree {trees}, or name yours with {CONFIG} FILE.json"
        )


def _candidates(path: Path) -> frozenset[int]:
    """Of a user's configuration: an object with `candidate_steps` for each batch size."""
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
        steps = [entry["candidate_steps"] for key, entry in config.items() if key.isdigit()]
        found = frozenset(step for listed in steps for step in listed)
    except OSError as error:
        raise UserError(f"{CONFIG} {path} cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        found = frozenset()
    if not found or not all(type(step) is int and step >= 0 for step in found):
        raise UserError(
            f"{CONFIG} {path}: expected candidates for batch sizes, for example "
            '{"1": {"candidate_steps": [1, 3, 7]}}'
        )
    return found


def _listed(candidates: frozenset[int]) -> str:
    *first, last = map(str, sorted(candidates))
    return f"{', '.join(first)} or {last}" if first else last
