"""The prefix cache (SGLang's radix cache) of a hybrid model: how GDN states are kept.

SGLang 0.5.17, server_args.py, _handle_mamba_radix_cache, and 0.5.23, arg_groups/model_hook.py,
handle_mamba_radix_cache.
"""

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import Profile

NO_PREFIX_CACHE, NO_OVERLAP = "--disable-radix-cache", "--disable-overlap-schedule"
STRATEGY, NO_BUFFER = "--mamba-radix-cache-strategy", "no_buffer"


def check(given: Parsed, chosen: Profile) -> None:
    """Raises UserError: a strategy that SGLang would end on with an assertion."""
    strategy = given.value(STRATEGY)
    if given.of(NO_PREFIX_CACHE) or strategy in (None, "auto"):
        return
    if strategy == NO_BUFFER and not chosen.cpu_engine and not given.of(NO_OVERLAP):
        raise UserError(
            f"{STRATEGY} {NO_BUFFER} cannot overlap scheduling: add {NO_OVERLAP}, or leave the "
            "strategy to SGLang"
        )
    if strategy != NO_BUFFER and chosen.cpu_engine:
        raise UserError(f"{STRATEGY} {strategy} needs a GPU: leave it out, or say {NO_BUFFER}")


def guards(given: Parsed, chosen: Profile) -> tuple[str, ...]:
    """What the CPU engine needs with the prefix cache on; SGLang would choose what needs a GPU."""
    if not chosen.cpu_engine or given.of(NO_PREFIX_CACHE):
        return ()
    strategy = () if given.value(STRATEGY) == NO_BUFFER else (STRATEGY, NO_BUFFER)
    return (*strategy, *(() if given.of(NO_OVERLAP) else (NO_OVERLAP,)))
