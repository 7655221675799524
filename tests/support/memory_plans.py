"""`doctor`'s memory plan beside what a running server says of itself."""

import json
import subprocess
import sys
from typing import Any

import httpx

from tests.support.server import PATIENCE, Server

GIB = 2**30


def planned(*words: str) -> dict[str, Any]:
    """`doctor --json WORDS`: its plan."""
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "doctor", "--json", *words]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    plan: dict[str, Any] = json.loads(printed)["plan"]
    return plan


def figures(plan: dict[str, Any], server: Server) -> dict[str, tuple[float, float]]:
    """What was planned and what the server says, by name: tokens, requests, slots, GiB of KV."""
    info = httpx.get(f"{server.url}/server_info", timeout=PATIENCE).json()
    state = info["internal_states"][0]
    return {
        "tokens": (plan["max_total_num_tokens"], info["max_total_num_tokens"]),
        "requests": (
            plan["max_running_requests"], state["effective_max_running_requests_per_dp"]
        ),
        "slots": (plan["max_mamba_cache_size"], state["max_mamba_cache_size"]),
        "KV in GiB": (plan["bytes"]["kv"] / GIB, state["memory_usage"]["kvcache"]),
        "weights in GiB": (plan["bytes"]["weights"] / GIB, state["memory_usage"]["weight"]),
    }  # fmt: skip
