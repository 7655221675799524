"""What a server tells of itself: its arguments, and none of its keys."""

import asyncio
from typing import Any

from sglang_qwen3next_eagle3.base.redact import HIDDEN
from sglang_qwen3next_eagle3.overlay.requests import server_info

ARGUMENTS = {
    "api_key": "ask",
    "admin_api_key": "rule",
    "ssl_keyfile_password": "open",
    "max_total_tokens": 4096,
    "tokenizer_path": "demo",
    "speculative_num_draft_tokens": 8,
    "memory_usage": {"token_capacity": 4096},
}
HIDDEN_ONES = {
    **ARGUMENTS, "api_key": HIDDEN, "admin_api_key": HIDDEN, "ssl_keyfile_password": HIDDEN,
}  # fmt: skip


def test_keys_are_hidden_and_figures_stay() -> None:
    def original(manager: Any, base: dict[str, Any]) -> dict[str, Any]:
        return {**base, "weight_version": "1"}

    told = server_info.resolved_config_dict(original, None, ARGUMENTS)
    assert told == {**HIDDEN_ONES, "weight_version": "1"}


def test_so_they_are_in_each_scheduler_s_state() -> None:
    async def original(manager: Any) -> list[dict[str, Any]]:
        return [ARGUMENTS, ARGUMENTS]

    told = asyncio.run(server_info.get_internal_state(original, None))
    assert told == [HIDDEN_ONES, HIDDEN_ONES]


def test_the_command_line_is_told_without_them() -> None:
    command = "python -m sglang.launch_server --port 1 --api-key=ask --admin-api-key rule --tp 1"

    def original(arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "launch_command": command}

    told = server_info.build_server_info(original, ARGUMENTS)
    hidden = told.pop("launch_command")
    assert told == HIDDEN_ONES
    assert "ask" not in hidden
    assert "rule" not in hidden
    assert hidden.endswith("--tp 1")


def test_without_keys_nothing_is_hidden() -> None:
    plain = {"api_key": None, "admin_api_key": None, "port": 1}
    assert server_info.resolved_config_dict(lambda manager, base: base, None, plain) == plain
