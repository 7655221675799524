"""What `demo` prints behind its answer."""

import json
import shlex

import pytest

from sglang_qwen3next_eagle3.cli import demo


@pytest.mark.parametrize("question", ['Say "hi".', "Isn't it?", "a\\b\nc", "Grüße"])
def test_the_command_that_it_prints_can_be_pasted(
    capsys: pytest.CaptureFixture[str], question: str
) -> None:
    demo._how_to_go_on("http://127.0.0.1:1", question, True, False)
    command = capsys.readouterr().out.partition("  curl ")[2]
    words = shlex.split(command.replace("\\\n", " ", 1))
    body = json.loads(words[words.index("-d") + 1])
    assert body["messages"] == [{"role": "user", "content": question}]
