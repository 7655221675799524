"""What SGLang reads of a config about positions; tests/contract/test_rope.py asks SGLang itself."""

from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import rope
from tests.support.ropes import OF_TARGETS, OTHERWISE, Case


@pytest.mark.parametrize("case", OF_TARGETS, ids=str)
def test_a_context_is_the_length_times_the_factor(case: Case) -> None:
    rope.check(case.config, case.overrides)
    assert rope.context_length(rope.overridden(case.config, case.overrides)) == case.context


@pytest.mark.parametrize("case", OTHERWISE, ids=str)
def test_what_sglang_would_pass_over_or_end_at_is_refused(case: Case) -> None:
    with pytest.raises(UserError, match="class for Qwen3-Next") as refused:
        rope.check(case.config, case.overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"max_position_embeddings": "4k"}, "max_position_embeddings is '4k'"),
        ({"seq_length": 0}, "seq_length is 0"),
        ({"rope_scaling": {"factor": "4"}}, "factor of the rope is '4'"),
        ({"rope_scaling": {"factor": None}}, "factor of the rope is None"),
        ({"rope_scaling": "yarn"}, "'yarn', not an object"),
    ],
)
def test_what_is_no_number_is_refused(config: dict[str, Any], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        rope.context_length(config)
