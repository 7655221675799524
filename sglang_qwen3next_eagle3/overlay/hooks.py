"""A hook: one SGLang symbol, what takes its place, and why. Tables of hooks are data.

SGLang's own `HookRegistry` is not used: it logs and swallows a hook that fails to apply, and it
rebinds every `from x import f` in every module, where some of our replacements must stay local to
one module.
"""

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

MARK = "__qwen3next_eagle3_hook__"


@dataclass(frozen=True)
class Hook:
    """One symbol of SGLang that the overlay changes.

    target: module path, then the qualified name, joined by a colon: `pkg.module:Class.method`.
        A name that the module only imports is a target too; then the binding in that module alone
        is replaced.
    replacement: for kind "around" a function `(original, *args, **kwargs)`; for kind "replace"
        what stands in the symbol's place, with its parameters.
    why: one sentence for `patches verify` and for the reader.
    """

    target: str
    replacement: Callable[..., Any]
    why: str
    kind: Literal["around", "replace"] = "around"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def qualname(self) -> str:
        return self.target.partition(":")[2]


def apply(hooks: Iterable[Hook]) -> None:
    """Put every hook in place, once; a second call changes nothing.

    Several hooks of one symbol stand around one another, the last one outermost.

    Raises:
        AttributeError, ImportError: the installed SGLang has no such symbol.
    """
    for hook in hooks:
        owner, name = _owner(hook.target)
        original = getattr(owner, name)
        present: tuple[str, ...] = getattr(original, MARK, ())
        key = f"{hook.target} {hook.replacement.__module__}.{hook.replacement.__qualname__}"
        if key in present:
            continue
        wrapped = wrap(original, hook)
        setattr(wrapped, MARK, (*present, key))
        setattr(owner, name, wrapped)


def current(target: str) -> Any:
    """What a symbol is at the moment, with the hooks that are in place.

    Raises:
        AttributeError, ImportError: the installed SGLang has no such symbol.
    """
    owner, name = _owner(target)
    return getattr(owner, name)


def _owner(target: str) -> tuple[ModuleType | type, str]:
    module, _, qualname = target.partition(":")
    *path, name = qualname.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    return owner, name


def wrap(original: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    """What stands in the place of `original`."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if hook.kind == "replace":
            return hook.replacement(*args, **kwargs)
        return hook.replacement(original, *args, **kwargs)

    return wrapper
