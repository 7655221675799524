"""What of a command line `launch` refuses before SGLang is started, each in one line."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import shards
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.environment import (
    LIMITS,
    NAMES,
    OF_A_SERVICE,
    PREFIX,
    is_on,
)
from sglang_qwen3next_eagle3.serving import adaptive, flags, keys, prefix_cache, switches
from sglang_qwen3next_eagle3.serving.command_line import (
    DEFAULT_PORT,
    SGLANG_NAMES,
    host_of,
)
from sglang_qwen3next_eagle3.serving.connection import is_loopback
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.profile import Profile, Tree

LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"
GRPC_PORT = "SGLANG_GRPC_PORT"
_GRPC = ("--grpc-port", "--smg-grpc-mode", "--grpc-mode")
CARD_LIMIT = (
    "the model card names Triton as required (FlashInfer fails on head_dim 256 with hybrid "
    "attention and GDN layers)"
)
MTP_PREFIX = "mtp."
"""Of the MTP layer's tensors (SGLang 0.5.17, models/qwen3_next.py, load_weights)."""
_BACKENDS = {
    "--attention-backend": "attention backend",
    "--prefill-attention-backend": "attention backend of the prefill",
    "--decode-attention-backend": "attention backend of decoding",
}
# What would be served unchecked, and the option that has it checked.
_CHECKED = {
    "--model-path": "--target",
    "--revision": "--revision before the --",
    "--speculative-draft-model-path": "--head",
    "--speculative-draft-model-revision": "--head-revision",
}
_TREE = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")


def check_flags(
    given: Parsed, extra: Parsed, chosen: Profile, *, allow_attention_backend: bool
) -> None:
    """given: all of the command line; extra: of it what stands behind `--`."""
    if extra.stray:
        raise UserError(
            f"{extra.stray[0]!r} after -- belongs to no flag: SGLang would end with its usage; "
            "mend it, or put its flag before it"
        )
    if given.stray:
        raise UserError(
            f"{given.stray[0]!r} in the profile's sglang belongs to no flag: a switch takes true "
            "or false"
        )
    for name, option in _CHECKED.items():
        for entry in extra.of(name):
            raise UserError(
                f"{entry.word} after -- would be served without being looked at: use {option}"
            )
    asked = (extra.value("--speculative-algorithm") or "").upper()
    if asked and asked != SGLANG_NAMES[chosen.algorithm]:
        raise UserError(
            f"{asked} after -- contradicts algorithm {chosen.algorithm}, and nothing would check "
            "it: take a profile of another algorithm"
        )
    _check_tree(given)
    adaptive.check(given)
    prefix_cache.check(given, chosen)
    if not chosen.cpu_engine and not allow_attention_backend:
        _check_backends(given)
    for name, what in switches.RANKS.items():
        ranks = switches.ranks_of(given, name, what)
        if chosen.cpu_engine and ranks != 1:
            raise UserError(
                f"{what} {ranks}: the CPU engine serves with one process: leave {name} at 1"
            )
    port = given.value("--port") or str(DEFAULT_PORT)
    if not 0 < _whole(port) < 65536:
        raise UserError(f"port {port!r}: a number from 1 to 65535")
    flags.check(given)


def check_variables(environment: Mapping[str, str]) -> None:
    """Of the caller and of the profile. Raises UserError: one of ours that nothing reads."""
    for name in sorted(environment):
        if OF_A_SERVICE.search(name):
            continue
        if name.startswith(PREFIX) and name not in NAMES:
            near = difflib.get_close_matches(name, sorted(NAMES), 1, 0.75)
            meant = f": {near[0]}?" if near else f"; there are {', '.join(sorted(NAMES))}"
            raise UserError(f"nothing reads the variable {name}{meant}")


def guards(given: Parsed, environment: Mapping[str, str]) -> list[str]:
    """What is asked for that the plugin does at every request."""
    asked = [flag for flag in keys.FLAGS if keys.sources(flag, given, environment)]
    limited = {**os.environ, **environment}.get(LIMITS, "").strip()
    return [*asked, "--limits"] if limited else asked


def check_keys(given: Parsed, environment: Mapping[str, str], *, insecure: bool) -> None:
    keys.check(given, environment)
    workers = given.number("--tokenizer-worker-num") or 1
    if workers > 1 and any(keys.sources(flag, given, environment) for flag in keys.FLAGS):
        raise UserError(
            f"with {workers} tokenizer workers SGLang checks no key: leave --tokenizer-worker-num "
            "at 1, or the keys out and a proxy in front that checks them (--insecure)"
        )
    host = host_of(given)
    grpc = _grpc(given, {**os.environ, **environment})
    guarded = any(keys.sources(flag, given, environment) for flag in keys.FLAGS)
    if grpc and not insecure and (guarded or not is_loopback(host)):
        raise UserError(
            f"{grpc}: SGLang's gRPC server asks nobody for a key: leave it out, or pass --insecure "
            "if something else guards it"
        )
    if is_loopback(host) or keys.is_guarded(given, environment) or insecure:
        return
    raise UserError(
        f"listening on {host or 'every address'} lets everybody who reaches it use the server: "
        "pass --api-key-file FILE, or --insecure if something else guards it"
    )


def _grpc(given: Parsed, environment: Mapping[str, str]) -> str | None:
    """What starts SGLang's gRPC server, as it is spelled."""
    if environment.get(GRPC_PORT, "").strip():
        return GRPC_PORT
    return next((entry.word for name in _GRPC for entry in given.of(name)), None)


def _check_backends(given: Parsed) -> None:
    for name, what in _BACKENDS.items():
        backend = given.value(name)
        if backend == switches.TRITON or (backend is None and name != "--attention-backend"):
            continue
        raise UserError(
            f"{what} {backend or 'not set'}: {CARD_LIMIT}; use triton, or pass "
            "--allow-attention-backend to go on"
        )


def _check_tree(given: Parsed) -> None:
    """Flags after `--` may change a part of the profile's tree, and then there may be none."""
    values = [given.value(name) for name in _TREE]
    if all(value is not None for value in values):
        Tree.parse(",".join(map(str, values)))


def _whole(text: str) -> int:
    """0: it is no whole number, or one of so many digits that nothing has it (Python reads none of
    thousands)."""
    return int(text) if text.isdecimal() and len(text) <= 18 else 0


def check_tp(target: Target, given: Parsed) -> None:
    error = target.tp_error(switches.ranks_of(given, "--tp-size", "TP"))
    if error is not None:
        fitting = [n for n in (1, 2, 4, 8, 16) if target.tp_error(n) is None]
        way_out = f"use --tp {' or '.join(map(str, fitting))}" if fitting else "no --tp fits"
        raise UserError(f"{error}: {way_out}")


def check_cpu_weights(target: Target | None, given: Parsed) -> None:
    """SGLang's quantization methods want bfloat16 or float16, and kernels of a GPU."""
    spelled = given.value("--quantization")
    if spelled not in (None, "unquant"):
        raise UserError(f"--quantization {spelled} needs a GPU: the CPU engine serves in float32")
    method = (target.config.get("quantization_config") if target else None) or {}
    if method:
        raise UserError(
            f"the target's weights are quantized ({method.get('quant_method')}), which needs a "
            "GPU: the CPU engine serves in float32"
        )


def check_context(target: Target, given: Parsed, environment: Mapping[str, str]) -> None:
    """SGLang refuses this itself unless it is told not to, as a head may make necessary."""
    asked, limit = given.number("--context-length"), target.context_length
    spelled = given.value("--context-length")
    if spelled is not None and not asked:
        raise UserError(
            f"context length {spelled!r}: a number of tokens, for example {limit} or 128Ki"
        )
    allowed = is_on({**os.environ, **environment}.get(LONGER_CONTEXT))
    if asked is None or asked <= limit or allowed:
        return
    if target.config.get("rope_scaling"):
        raise UserError(
            f"a context of {asked} is asked for, SGLang derives {limit} of the target's config "
            "(where original_max_position_embeddings is named it takes no factor): ask for "
            f"{limit} or less, or set {LONGER_CONTEXT}=1 where the rope is stretched that far"
        )
    raise UserError(
        f"a context of {asked} is asked for, the target knows {limit}: beyond that its text is "
        f"noise; ask for {limit} or less, or set {LONGER_CONTEXT}=1 if you know better"
    )


def check_mtp(target: Path, given: Parsed) -> None:
    """SGLang starts without the layer's weights, too, and then accepts next to nothing.

    A folder without weights, or one whose weights are not loaded, may be served with random ones.
    """
    files = Folder(target)
    safetensors = any(name.endswith(".safetensors") for name in files.sizes)
    if given.value("--load-format") == "dummy" or not safetensors:
        return
    if not any(name.startswith(MTP_PREFIX) for name in shards.headers(files)):
        raise UserError(
            f"the target {target} has no MTP layer (no tensor {MTP_PREFIX}*): serve it with an "
            "EAGLE3 head, or with algorithm none (--no-speculation)"
        )
