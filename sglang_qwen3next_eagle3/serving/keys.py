"""Where the two keys of a server come from, beside its command line.

SGLang takes keys as flags alone, and the command line of a process is readable for every user of
the machine. So a file or a variable holds them, `launch` hands on which, and the plugin reads it in
the server's process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded
from sglang_qwen3next_eagle3.base.secrets import check_key, read_key
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving.flags import Parsed

FLAGS = API_KEY, ADMIN_API_KEY = tuple(variables.KEYS)


@dataclass(frozen=True)
class Keys:
    """What the command line of `launch` says of them. The files are not read here."""

    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None
    admin_api_key_file: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """How the plugin is told. Raises UserError: the key is given twice, or is none."""
        if self.api_key is not None and not self.api_key.strip():
            raise _empty(API_KEY)
        if self.api_key and self.api_key_file is not None:
            raise _twice(API_KEY, ["--api-key", "--api-key-file"])
        told = {}
        if self.api_key:
            told[variables.KEYS[API_KEY]] = self.api_key
        files = {API_KEY: self.api_key_file, ADMIN_API_KEY: self.admin_api_key_file}
        for flag, file in files.items():
            if file is not None:
                told[variables.KEYS[flag] + variables.FILE] = str(expanded(file).absolute())
        return told


def sources(flag: str, given: Parsed, environment: Mapping[str, str]) -> list[str]:
    """What would give the server this key: a flag or the names of variables.

    environment: what is set beyond the caller's.
    """
    found = [flag] if given.value(flag) else []
    name = variables.KEYS[flag]
    everything = {**os.environ, **environment}
    return found + [one for one in (name, name + variables.FILE) if everything.get(one, "").strip()]


def is_guarded(given: Parsed, environment: Mapping[str, str]) -> bool:
    """Whether clients need a key."""
    return bool(sources(API_KEY, given, environment))


def check(given: Parsed, environment: Mapping[str, str]) -> None:
    """Raises UserError: one key comes from several places, or a flag for one says none."""
    for flag in variables.KEYS:
        spelled = given.value(flag)
        if spelled is not None and not spelled.strip():
            raise _empty(flag)
        found = sources(flag, given, environment)
        if len(found) > 1:
            raise _twice(flag, found)


def check_readable(given: Parsed, environment: Mapping[str, str]) -> None:
    """Raises UserError: a file is not there, or what it holds is no key."""
    for flag in variables.KEYS:
        for source in sources(flag, given, environment):
            value = {**os.environ, **environment}.get(source, "")
            if source.endswith(variables.FILE):
                read_key(Path(value), f"{flag}-file")
            else:
                check_key(given.value(flag) or value.strip())


def _empty(flag: str) -> UserError:
    """SGLang takes an empty key for none, and answers everybody."""
    return UserError(
        f"{flag} is empty, as an unset variable leaves it, and would guard nothing: name a key, or "
        "leave it out"
    )


def _twice(flag: str, found: list[str]) -> UserError:
    return UserError(
        f"the key of {flag} comes from {' and '.join(found)}: leave one of them, so that it is "
        "clear which counts"
    )
