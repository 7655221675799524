"""`chat` without a prompt: a conversation on a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_qwen3next_eagle3.base.errors import Terminated, UserError
from sglang_qwen3next_eagle3.serving.client import Answer, AnswerStream, Client

PROMPT, MORE = "> ", ". "
QUOTES = '"""'
HELP = f"""\
/reset        forget what was said (the system message stays)
/retry        ask the last question again, in place of its answer
/system TEXT  set the system message; without a text: have none
/help         this
/exit         end, as Ctrl-D does
Several lines: paste them, or end a line with \\, or put them between {QUOTES} and {QUOTES}.
Ctrl-C while an answer comes stops it at the server; what was said of it stays."""
_COMMANDS = ("/reset", "/retry", "/system", "/help", "/exit", "/quit")


class Cancelled(Exception):
    """An answer was stopped by Ctrl-C. kept: part of it was said, and is part of the history."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept = kept


@dataclass
class Conversation:
    """said: questions and answers in turn; question: the last one, and whether it is the last that
    `said` holds; options: of every request."""

    client: Client
    options: Mapping[str, Any]
    system: str | None = None
    said: list[dict[str, str]] = field(default_factory=list)
    question: str | None = None
    answered: bool = False

    def ask(self, question: str, show: Callable[[str], None]) -> Answer | None:
        """One answer, shown as it comes, and then part of the history with its question.

        Raises:
            Cancelled: by Ctrl-C; the server drops the request. The part that was said is kept as
                the answer; where there is none, the question is none of the history either.
            UserError: the server refused, failed or is gone; the history is as it was before.
        """
        self.question, self.answered = question, False
        asked = {"role": "user", "content": question}
        opening = [{"role": "system", "content": self.system}] if self.system else []
        pieces: list[str] = []
        stream: AnswerStream | None = None
        try:
            stream = self.client.chat([*opening, *self.said, asked], stream=True, **self.options)
            for piece in stream:
                pieces.append(piece)
                show(piece)
        except Terminated:
            raise
        except KeyboardInterrupt:
            self._keep(asked, pieces)
            raise Cancelled(bool(pieces)) from None
        finally:
            if stream is not None:
                stream.close()
        self._keep(asked, pieces or [""])
        return stream.answer

    def again(self, show: Callable[[str], None]) -> Answer | None:
        """`ask` the last question, without its answer if it has one.

        Raises:
            UserError: nothing was asked yet; and as `ask`. Where nothing new was said, the answer
                that there was stays.
        """
        if self.question is None:
            raise UserError("nothing was asked yet")
        before = self.said[-2:] if self.answered else []
        del self.said[len(self.said) - len(before) :]
        try:
            return self.ask(self.question, show)
        finally:
            if not self.answered:
                self.said += before
                self.answered = bool(before)

    def reset(self) -> None:
        self.said.clear()
        self.question, self.answered = None, False

    def _keep(self, asked: dict[str, str], pieces: list[str]) -> None:
        if pieces:
            self.said += [asked, {"role": "assistant", "content": "".join(pieces)}]
            self.answered = True


def converse(conversation: Conversation) -> None:
    """Read from the terminal and answer, until /exit or Ctrl-D. What goes wrong is one line.

    Raises:
        KeyboardInterrupt: Ctrl-C at the prompt, twice in a row.
    """
    _tell("/help shows the commands, /exit or Ctrl-D ends")
    warned = False
    with _editing() as read_line:
        while True:
            try:
                text = read_message(read_line)
            except EOFError:
                print()
                return
            except Terminated:
                raise
            except KeyboardInterrupt:
                if warned:
                    raise
                warned = True
                _tell("\nCtrl-C again, Ctrl-D or /exit ends")
                continue
            warned = False
            if not text.strip():
                continue
            command, rest = command_of(text)
            if command in ("/exit", "/quit"):
                return
            try:
                _obey(conversation, command, rest)
            except Terminated:
                raise
            except KeyboardInterrupt:  # At an answer's last word, when there is nothing to stop.
                _tell("")


def read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, a paste of several lines, lines that end in a backslash, or what
    stands between triple quotes (also behind /system). read_line: with the prompt to show.

    Raises:
        EOFError: the end of the input.
    """
    line = read_line(PROMPT)
    if "\n" in line:  # A paste is taken as it is.
        return line
    before, quotes, inside = line.partition(QUOTES)
    if quotes and before.strip() in ("", "/system"):
        lines = [inside]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(read_line(MORE))
        return before + "\n".join(lines).rstrip().removesuffix(QUOTES).strip("\n")
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{read_line(MORE)}"
    return line


def command_of(text: str) -> tuple[str | None, str]:
    """A command and what follows it; (None, text) for a question.

    A path or a comment of a program begins with a slash, too: what begins with a word of letters
    only was meant as a command, and `_obey` refuses it if there is none.
    """
    words = text.split(maxsplit=1)
    name = words[0]
    if text.startswith("/") and name[1:].isalpha() and (name in _COMMANDS or "\n" not in text):
        return name, words[1] if len(words) > 1 else ""
    return None, text


def _obey(conversation: Conversation, command: str | None, text: str) -> None:
    try:
        if command is None:
            _answer(lambda show: conversation.ask(text, show))
        elif command == "/retry":
            _answer(conversation.again)
        elif command == "/help":
            _tell(HELP)
        elif command == "/reset":
            conversation.reset()
            _tell("forgotten: the next question is the first")
        elif command == "/system":
            conversation.system = text.strip() or None
            _tell(f"system message {'set' if conversation.system else 'removed'}")
        else:
            _tell(f"there is no {command}: /help shows the commands; with a space before it, it is "
                  "a question")  # fmt: skip
    except UserError as error:
        _tell(f"error: {error}; the conversation stays, /retry asks again")


def _answer(ask: Callable[[Callable[[str], None]], Answer | None]) -> None:
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        begun = True
        print(piece, end="", flush=True)

    try:
        answer = ask(show)
    except Cancelled as cancelled:
        kept = "what was said stays" if cancelled.kept else "the question is dropped"
        _tell(f"\n[stopped: {kept}; /retry asks again]")
        return
    except UserError:
        if begun:
            print(flush=True)
        raise
    print(flush=True)
    if answer is not None:
        _tell(f"[{answer.figures()}]")


@contextlib.contextmanager
def _editing() -> Iterator[Callable[[str], str]]:
    """How a line is read: with the keys and the history of readline, where Python has it and the
    output is a terminal, too; where it is none, it is for answers only."""
    if not sys.stdout.isatty():
        yield _plain_line
        return
    with contextlib.suppress(ImportError):
        import readline

        # Else every line of a paste would be a message. Python turns it off at the start.
        if "GNU" in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")
    yield input


def _plain_line(prompt: str) -> str:
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
