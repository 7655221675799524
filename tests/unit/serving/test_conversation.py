"""The history of a conversation; tests/integration/cli/test_chat_conversation.py types one."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from sglang_qwen3next_eagle3.base.errors import Terminated, UserError
from sglang_qwen3next_eagle3.serving import conversation
from sglang_qwen3next_eagle3.serving.client import Client
from sglang_qwen3next_eagle3.serving.conversation import Cancelled, Conversation, command_of
from tests.support.fake_chat import FakeChat, serving


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


@pytest.fixture
def talk(server: FakeChat) -> Conversation:
    return Conversation(Client(server.url), {"max_tokens": 3})


def said(talk: Conversation) -> list[str]:
    return [one["content"] for one in talk.said]


def show(_piece: str) -> None: ...


ANSWER = "1 3 6 7 "


def test_a_question_is_asked_again_in_place_of_its_own_answer_only(talk: Conversation) -> None:
    talk.ask("a", show)
    talk.again(show)
    assert said(talk) == ["a", ANSWER]
    for _ in range(2):  # The same question, which now fails.
        with pytest.raises(UserError):
            talk.ask("cut", show)
    talk.said += [{"role": "user", "content": "cut"}, {"role": "assistant", "content": "before"}]
    with pytest.raises(UserError):
        talk.again(show)
    assert said(talk) == ["a", ANSWER, "cut", "before"]


def test_an_answer_stays_where_asking_again_brings_none(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise UserError("gone")

    talk.ask("a", show)
    with monkeypatch.context() as gone:
        gone.setattr(talk.client, "chat", fails)
        for _ in range(2):
            with pytest.raises(UserError, match="gone"):
                talk.again(show)
    assert said(talk) == ["a", ANSWER]
    talk.again(show)
    assert said(talk) == ["a", ANSWER]


def test_there_is_nothing_to_ask_again_at_first_or_after_a_reset(talk: Conversation) -> None:
    with pytest.raises(UserError, match="nothing was asked yet"):
        talk.again(show)
    talk.ask("a", show)
    talk.reset()
    with pytest.raises(UserError, match="nothing was asked yet"):
        talk.again(show)
    assert said(talk) == []


@pytest.mark.parametrize("at", [0, 2])
def test_ctrl_c_keeps_what_was_said_and_sigterm_ends_all(talk: Conversation, at: int) -> None:
    shown: list[str] = []

    def interrupted(by: BaseException) -> None:
        def piece(text: str) -> None:
            if len(shown) == at:
                raise by
            shown.append(text)

        talk.ask("a", piece)

    with pytest.raises(Cancelled):
        interrupted(KeyboardInterrupt())
    # The piece at which it came was said by the server, too.
    assert said(talk) == ["a", "".join(["1 ", "3 ", "6 "][: at + 1])]
    shown.clear()
    with pytest.raises(Terminated):
        interrupted(Terminated(15))
    assert len(talk.said) == 2


def test_ctrl_c_at_an_answer_s_last_word_does_not_end_the_conversation(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["a", "b"])

    @contextlib.contextmanager
    def typed() -> Iterator[Callable[[str], str]]:
        def read_line(prompt: str) -> str:
            if (line := next(lines, None)) is None:
                raise EOFError
            return line

        yield read_line

    def late(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversation, "_editing", typed)
    monkeypatch.setattr(conversation, "_answer", late)
    conversation.converse(talk)
    assert next(lines, None) is None, "both were read"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/reset", ("/reset", "")),
        ("/system  be brief ", ("/system", "be brief ")),
        ("/system\nbe brief", ("/system", "be brief")),
        ("/nonsense a", ("/nonsense", "a")),
        ("/nonsense\na", (None, "/nonsense\na")),
        ("/usr/bin/x", (None, "/usr/bin/x")),
        ("// a comment", (None, "// a comment")),
        (" /exit", (None, " /exit")),
        ("what is /exit", (None, "what is /exit")),
    ],
)
def test_what_is_a_command(text: str, expected: tuple[str | None, str]) -> None:
    assert command_of(text) == expected
