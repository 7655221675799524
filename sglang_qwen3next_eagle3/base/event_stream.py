"""Server-sent events, as far as servers of language models use them: `data: ...` lines."""

from collections.abc import Iterator


class EventData:
    """What stands behind the `data:` of each line of a stream, fed as it arrives.

    Lines end at line feeds only. JSON may hold U+2028, U+2029 and U+0085 as they are, at which
    str.splitlines (and so httpx's iter_lines) would cut an event in two.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of the lines that are whole by now."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()
