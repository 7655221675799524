"""Environment variables by which the launching process tells the plugin what to do.

They are read in every process of the server; `model.aux_layers` names the one of the selection.
"""

import re

CPU_ENGINE = "SGLANG_QWEN3NEXT_EAGLE3_CPU_ENGINE"
"""Set to 1, it lets stock SGLang run Qwen3-Next without a GPU (the demo profile sets it)."""
SIMULATE = "SGLANG_QWEN3NEXT_EAGLE3_SIMULATE"
"""Names the file that holds the accept length to simulate (`bench speed` sets it)."""
ROUTING = "SGLANG_QWEN3NEXT_EAGLE3_ROUTING"
"""`uniform` or `text`: how routers of dummy weights choose beside it (overlay/routing.py; `bench
speed --routing` and `bench cycle --routing` set it)."""
FAST = "SGLANG_QWEN3NEXT_EAGLE3_FAST"
"""`on`, `off`, `require` (refuse to serve without it), `auto` (what was proved, where it was), or
stages of the fast path (fast/stages.py) joined by commas. `launch` says auto where nobody says
anything; without it a server has SGLang's kernels."""
CYCLE_COSTS = "SGLANG_QWEN3NEXT_EAGLE3_CYCLE_COSTS"
"""What a cycle of the served tree was measured to take (metrics/cycle_costs.py), with which metrics
tell how much speculation gains and whether it is as fast as it should be."""
KEYS = {
    "--api-key": "SGLANG_QWEN3NEXT_EAGLE3_API_KEY",
    "--admin-api-key": "SGLANG_QWEN3NEXT_EAGLE3_ADMIN_API_KEY",
}
"""By the flag of SGLang for it, what holds a key, or with FILE behind it names a file that does."""
FILE = "_FILE"
LIMITS = "SGLANG_QWEN3NEXT_EAGLE3_LIMITS"
"""How much one request may ask for (requests/bounds.py); `launch --limits` sets it."""

CYCLE = "SGLANG_QWEN3NEXT_EAGLE3_CYCLE"
"""Names the folder in which every scheduler records where its time goes (`bench cycle` sets it)."""

ADAPTIVE = "SGLANG_QWEN3NEXT_EAGLE3_ADAPTIVE"
"""Set to 1 (the launcher does), the steps of adaptive drafting are chosen by what cycles cost, as
the file of `--speculative-adaptive-config` says it (adaptive/states.py)."""
STEPS = "SGLANG_QWEN3NEXT_EAGLE3_STEPS"
"""Names the file that holds the steps to draft in place of that choice (`bench auto` sets it)."""
DEFER = "SGLANG_QWEN3NEXT_EAGLE3_DEFER"
"""For how many cycles of 0 steps the head's cache is filled at once (adaptive/deferral.py); in
every one without it."""

SEAMS = "SGLANG_QWEN3NEXT_EAGLE3_SEAMS"
"""`on`, `off`, `auto`, or seams of a cycle (seams/seams.py) joined by commas; off without it."""

STANDBY = "SGLANG_QWEN3NEXT_EAGLE3_STANDBY"
"""Whether processes import beside the server's first one, and become its schedulers and its
detokenizer (standby): `auto`, `off`, or for how many schedulers; auto without it."""

PREFIX = "SGLANG_QWEN3NEXT_EAGLE3_"
NAMES = frozenset(
    {
        *(CPU_ENGINE, SIMULATE, ROUTING, FAST, CYCLE_COSTS, LIMITS, CYCLE, ADAPTIVE, STEPS, SEAMS),
        *(DEFER, STANDBY),
        *KEYS.values(),
        *(f"{name}{FILE}" for name in KEYS.values()),
        "SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS",  # model/aux_layers.py
        "SGLANG_QWEN3NEXT_EAGLE3_FAST_TRY",  # fast/trials.py
        "SGLANG_QWEN3NEXT_EAGLE3_FAST_PDL",  # fast/device.py
    }
)
"""All that begin so: what else does is a slip, which nothing would read, or `OF_A_SERVICE`."""
OF_A_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
"""How Kubernetes tells a container of a service whose name begins as ours (as Docker of a link)."""


def spelled(given: object) -> str:
    """What a profile says of `fast` or of `seams`, as the variable for it spells that: true and
    false, a word, or a list of words. YAML reads on and off as true and false.

    Raises:
        ValueError: it is none of these, or nothing.
    """
    words = given if isinstance(given, list) else [given]
    said = {True: "on", False: "off"}
    text = [said.get(word, word) if isinstance(word, bool) else word for word in words]
    named = [word for word in text if isinstance(word, str) and word.strip()]
    if not named or named != text:
        raise ValueError("say on, off, or which, as a list")
    return ",".join(named)


def is_on(text: str | None) -> bool:
    """How SGLang reads a switch of its own (0.5.17, environ.py, EnvBool)."""
    return (text or "").lower() in {"1", "true", "yes", "y"}
