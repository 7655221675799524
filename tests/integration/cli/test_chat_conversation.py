"""`chat` without a question, as it is typed on a terminal."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.support.fake_chat import FakeChat, serving
from tests.support.terminal import CTRL_C, CTRL_D, PASTE, PATIENCE, UP, Terminal, terminal

CHAT = [sys.executable, "-m", "sglang_qwen3next_eagle3", "chat"]
PROMPT = "> "
DONE = "finished: stop]"


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


def talking(server: FakeChat, *words: str) -> AbstractContextManager[Terminal]:
    return terminal([*CHAT, "--base-url", server.url, *words], {})


def ask(shell: Terminal, keys: str) -> None:
    shell.type(f"{keys}\r")
    shell.wait_for(DONE)
    shell.wait_for(PROMPT)


def wait_for_signal(shell: Terminal, answer: str) -> None:
    """A signal that comes between the prompt and the first wait for a key is seen by Python's
    readline at the next key or signal only: the window changes its size, again and again."""
    end = time.monotonic() + PATIENCE
    while not shell.shows(answer):
        assert time.monotonic() < end
        shell.process.send_signal(signal.SIGWINCH)
        time.sleep(0.05)
    shell.wait_for(answer)


def ctrl_c(shell: Terminal, answer: str) -> None:
    shell.type(CTRL_C)
    wait_for_signal(shell, answer)


def contents(request: dict[str, list[dict[str, str]]]) -> list[tuple[str, str]]:
    short = {"system": "s", "user": "u", "assistant": "a"}
    return [(short[one["role"]], one["content"]) for one in request["messages"]]


SAID = ("a", "1 3 6 7 ")


def test_a_conversation_has_a_history_commands_and_ends_with_ctrl_d(server: FakeChat) -> None:
    with talking(server, "--system", "be brief", "--top-p", "0.5", "--max-tokens", "9") as shell:
        shell.wait_for(PROMPT)
        ask(shell, "one")
        assert "1 3 6 7" in shell.shown
        assert "7 tokens, " in shell.shown
        assert "accept length about " in shell.shown
        ask(shell, "two")
        ask(shell, UP + UP)  # The keys of readline: the question before the last.
        shell.type("/reset\r")
        shell.wait_for("forgotten")
        shell.wait_for(PROMPT)
        ask(shell, "three")
        shell.type("/system talk in verse\r")
        shell.wait_for("system message set")
        shell.wait_for(PROMPT)
        ask(shell, "four")
        shell.type("/system\r")
        shell.wait_for("system message removed")
        shell.wait_for(PROMPT)
        ask(shell, "/retry")
        shell.type("\r   \r/help\r")
        shell.wait_for("/reset")
        shell.wait_for(PROMPT)
        shell.type("/tmp\r")
        shell.wait_for("there is no /tmp")
        shell.wait_for(PROMPT)
        shell.type(CTRL_D)
        assert shell.ended() == 0
    s, one, two, three, four = ("s", "be brief"), *(("u", n) for n in "one two three four".split())
    assert [contents(request) for request in server.requests] == [
        [s, one],
        [s, one, SAID, two],
        [s, one, SAID, two, SAID, one],
        [s, three],
        [("s", "talk in verse"), three, SAID, four],
        [three, SAID, four],
    ]
    assert {request["top_p"] for request in server.requests} == {0.5}
    assert {request["max_tokens"] for request in server.requests} == {9}
    assert "Traceback" not in shell.shown


def test_several_lines_are_one_message(server: FakeChat) -> None:
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        shell.type("first\\\r")
        shell.wait_for(". ")
        ask(shell, "second")
        shell.type('"""def f():\r')
        shell.wait_for(". ")
        shell.type("    pass\\\r")
        shell.wait_for(". ")
        ask(shell, '"""')
        ask(shell, PASTE.format("/* a comment */\n  int x;\\\n\n/usr/bin"))
        ask(shell, "/usr/bin/env is what?")
        ask(shell, " /exit as a question")
        shell.type("/exit\r")
        assert shell.ended() == 0
    assert [contents(request)[-1][1] for request in server.requests] == [
        "first\nsecond",
        "def f():\n    pass\\",
        "/* a comment */\n  int x;\\\n\n/usr/bin",
        "/usr/bin/env is what?",
        " /exit as a question",
    ]


def test_ctrl_c_stops_the_answer_at_the_server_and_keeps_the_conversation(server: FakeChat) -> None:
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        ask(shell, "one")
        shell.type("endless\r")
        shell.wait_for("3 4 5 ")
        shell.type(CTRL_C)
        shell.wait_for("[stopped: what was said stays")
        assert server.hung_up.wait(PATIENCE)
        shell.wait_for(PROMPT)
        ask(shell, "and then?")
        history = contents(server.requests[-1])
        assert history[:3] == [("u", "one"), SAID, ("u", "endless")]
        assert history[3][1].startswith("0 1 2 3 4 5 ")
        assert history[4:] == [("u", "and then?")]
        assert shell.process.poll() is None


def test_ctrl_c_before_the_first_word_drops_the_question(server: FakeChat) -> None:
    server.stall_seconds = PATIENCE
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        shell.type("stall at once\r")
        server.wait_for_requests(1)
        shell.type(CTRL_C)
        shell.wait_for("[stopped: the question is dropped")
        shell.wait_for(PROMPT)
        ask(shell, "one")
        assert contents(server.requests[-1]) == [("u", "one")]


def test_ctrl_c_at_the_prompt_warns_and_then_ends(server: FakeChat) -> None:
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        shell.type("half a quest")
        shell.wait_for("half a quest")
        ctrl_c(shell, "Ctrl-C again, Ctrl-D or /exit ends")
        shell.wait_for(PROMPT)
        ask(shell, "one")
        assert contents(server.requests[-1]) == [("u", "one")]
        ctrl_c(shell, "Ctrl-C again")
        shell.wait_for(PROMPT)
        ctrl_c(shell, "interrupted")
        assert shell.ended() == 130
    assert "Traceback" not in shell.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once(server: FakeChat, number: signal.Signals) -> None:
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        shell.process.send_signal(number)
        wait_for_signal(shell, "ended by")
        assert shell.ended() == 128 + number
    assert "Traceback" not in shell.shown


def test_what_goes_wrong_is_one_line_and_can_be_asked_again(server: FakeChat) -> None:
    with talking(server) as shell:
        shell.wait_for(PROMPT)
        ask(shell, "one")
        for what, said in (
            ("cut", "error: the "),
            ("error", "error: the server failed in the middle of the answer: out of memory"),
            ("503", "error: the server refused (503): status 503; ask again later"),
        ):
            shell.type(f"{what}\r")
            shell.wait_for(said)
            assert shell.wait_for(PROMPT).count("\r\n") == 1
        shell.type("/retry\r")
        shell.wait_for("refused (503)")
        shell.wait_for(PROMPT)
        ask(shell, "two")
        assert contents(server.requests[-2]) == [("u", "one"), SAID, ("u", "503")]
        assert contents(server.requests[-1]) == [("u", "one"), SAID, ("u", "two")]
        shell.type("/exit\r")
        assert shell.ended() == 0


def test_a_server_that_is_gone_and_comes_back_is_asked_again() -> None:
    with ExitStack() as stack:
        with serving() as server:
            shell = stack.enter_context(talking(server))
            shell.wait_for(PROMPT)
            ask(shell, "one")
        shell.type("two\r")
        shell.wait_for("error: no server answers at")
        shell.wait_for(PROMPT)
        with serving(port=int(server.url.rpartition(":")[2])) as server:
            ask(shell, "/retry")
            assert contents(server.requests[0]) == [("u", "one"), SAID, ("u", "two")]


def test_answers_into_a_file_leave_prompts_and_figures_on_the_terminal(
    server: FakeChat, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    command = ["sh", "-c", 'exec "$@" >"$ANSWERS"', "sh", *CHAT, "--base-url", server.url]
    with terminal(command, {"ANSWERS": str(answers)}) as shell:
        shell.wait_for(PROMPT)
        ask(shell, "one")
        shell.type(CTRL_D)
        assert shell.ended() == 0
    assert answers.read_text().strip() == SAID[1].strip()


def test_json_is_of_one_answer(server: FakeChat) -> None:
    with talking(server, "--json") as shell:
        assert shell.ended() == 2
    assert shell.shown == "error: --json prints one answer: give the question, too\r\n"
