import sys
from types import ModuleType

import pytest

from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply


class Engine:
    def run(self, x: int) -> int:
        """Run."""
        return x


def helper() -> str:
    return "stock"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("a_stock_module")
    module.Engine = type("Engine", (Engine,), {"run": Engine.run})  # type: ignore[attr-defined]
    module.helper = helper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_stock_module", module)
    return module


def test_an_around_hook_gets_the_original(module: ModuleType) -> None:
    def double(original, engine, x):  # type: ignore[no-untyped-def]
        return 2 * original(engine, x)

    apply([Hook("a_stock_module:Engine.run", double, "doubles")])
    assert module.Engine().run(3) == 6
    assert module.Engine.run.__doc__ == "Run."


def test_a_replacement_takes_the_place_in_that_module_alone(module: ModuleType) -> None:
    apply([Hook("a_stock_module:helper", lambda: "ours", "ours", "replace")])
    assert module.helper() == "ours"
    assert helper() == "stock"


def test_applying_twice_changes_nothing(module: ModuleType) -> None:
    hook = Hook("a_stock_module:Engine.run", lambda original, e, x: original(e, x) + 1, "adds")
    apply([hook])
    apply([hook])
    assert module.Engine().run(3) == 4


def test_a_symbol_that_is_not_there_is_an_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError):
        apply([Hook("a_stock_module:Engine.gone", lambda: None, "none")])
    with pytest.raises(ImportError):
        apply([Hook("no_such_module:f", lambda: None, "none")])


def test_two_hooks_of_one_symbol_stand_around_one_another(module: ModuleType) -> None:
    def double(original, engine, x):  # type: ignore[no-untyped-def]
        return 2 * original(engine, x)

    def add(original, engine, x):  # type: ignore[no-untyped-def]
        return original(engine, x) + 1

    hooks = [Hook("a_stock_module:Engine.run", f, "changes") for f in (double, add)]
    apply(hooks)
    apply(hooks)
    assert module.Engine().run(3) == 7
