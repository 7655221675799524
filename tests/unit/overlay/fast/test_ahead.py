"""Kernels that are compiled ahead, and the products that the check at start compares with."""

import contextvars
import os
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast import ahead, reference
from sglang_qwen3next_eagle3.overlay.fast.compile_pool import Compiled
from sglang_qwen3next_eagle3.overlay.fast.kernels import attention
from sglang_qwen3next_eagle3.overlay.fast.kernels.attention import WGMMA_OFF
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize


class Kernel:
    """A `JITFunction` that asks for its compilation as Triton's does."""

    launched: ClassVar[list[tuple[str, bool]]] = []

    def __init__(self, name: str, mode: Any) -> None:
        self.name, self.mode, self.cache = name, mode, dict[str, Any]()
        self.device_caches = {0: (self.cache,)}

    def run(self, *args: Any, grid: Any, warmup: bool) -> Any:
        def compiled() -> str:
            if self.name == "wrong":
                raise ValueError("no registers left")
            return threading.current_thread().name

        mode = self.mode.get()
        if mode is not None:
            made = mode.submit(self.name, compiled, lambda made: self.cache.update(made=made))
            # As Triton 3.8 does.
            self.cache["made"] = made
        else:
            made = self.cache.setdefault("made", compiled())
        Kernel.launched.append((self.name, warmup))
        return made


class Tuner:
    def run(self, *args: Any, **options: Any) -> Any:
        pytest.fail("it was tuned by launches that are none")


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Triton's mode of compiling in threads around kernels of this file."""
    from triton.runtime import _async_compile, autotuner, jit

    active: Any = contextvars.ContextVar("active", default=None)
    monkeypatch.setattr(_async_compile, "active_mode", active)
    monkeypatch.setattr(jit, "JITFunction", Kernel)
    monkeypatch.setattr(autotuner, "Autotuner", Tuner)
    monkeypatch.setattr(ahead, "INTERPRETED", False)
    monkeypatch.delenv(WGMMA_OFF, raising=False)
    monkeypatch.setattr(Kernel, "launched", [])
    return active


def test_kernels_are_compiled_in_threads_and_not_launched(mode: Any) -> None:
    kernels = {name: Kernel(name, mode) for name in ("one", "two", "wrong")}
    before = Kernel.run
    with ahead.compiling() as compiler:
        assert compiler is not None
        for kernel in (*kernels.values(), kernels["one"]):
            compiler.run(partial(launch, kernel))
        assert mode.get() is None
        made = compiler.finish()
    assert (made.there, made.told, made.here) == (0, (), 2)
    assert str(made) == f"2 kernels made ready in {made.seconds:.1f} s: 2 compiled by the server"
    assert Kernel.run is before
    assert Kernel.launched == [("one", True), ("two", True), ("wrong", True), ("one", True)]
    assert kernels["one"].cache["made"].startswith("compile")
    # It is compiled, and fails, where it is launched.
    assert kernels["wrong"].cache == {}
    with pytest.raises(ValueError, match="no registers left"):
        kernels["wrong"].run(grid=(1,), warmup=False)


def launch(kernel: Kernel) -> None:
    kernel.run(grid=(1,), warmup=False)


def no_room() -> None:
    raise MemoryError("no room for it")


def test_what_goes_wrong_is_left_to_the_launches(mode: Any) -> None:
    before, kernel = Tuner.run, Kernel("one", mode)

    def step() -> None:
        kernel.run(grid=(1,), warmup=False)
        Tuner().run()

    with ahead.compiling() as compiler:
        assert compiler is not None
        compiler.run(step)
        assert Tuner.run is before
        with compiler.surviving():
            no_room()
        made = compiler.finish()
        tuned = "Tuned: in a step that leaves that to its launch"
        assert made.missed == (tuned, "MemoryError: no room for it")
        end = f": 1 compiled by the server; 2 steps not gone through to the end, first: {tuned}"
        assert str(made).endswith(end)
        assert compiler.finish().missed == ()
        no_room()
    assert kernel.cache["made"]
    assert mode.get() is None


def test_what_is_launched_within_a_setting_of_the_compiler_is_left_to_its_launch(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is of all threads: nothing is compiled while it is there, and the kernel not
    without it. Triton's own products of four warps are wrong in attention."""
    settings: list[str | None] = []
    kernels = {name: Kernel(name, mode) for name in ("before", "within", "behind")}
    submit = ahead.Collected.submit

    def noted(self: Any, key: str, compile_fn: Any, finalize_fn: Any) -> Any:
        def compiled() -> Any:
            settings.append(os.environ.get(WGMMA_OFF))
            return compile_fn()

        return submit(self, key, compiled, finalize_fn)

    monkeypatch.setattr(ahead.Collected, "submit", noted)

    def step() -> None:
        launch(kernels["before"])
        with attention._warp_level_products():
            launch(kernels["within"])
            time.sleep(0.2)
        launch(kernels["behind"])

    with ahead.compiling() as compiler:
        assert compiler is not None
        compiler.run(step)
        assert settings == []
    assert settings == [None, None]
    assert kernels["before"].cache["made"]
    assert kernels["behind"].cache["made"]
    assert kernels["within"].cache == {}


class Compilers:
    """Other processes, and what they were asked for."""

    def __init__(self, cache: set[str], *, dead: bool = False) -> None:
        self.cache, self.dead, self.asked = cache, dead, list[str]()

    def compile(self, jobs: Any) -> list[Compiled]:
        self.asked += [job.key for job in jobs]
        if self.dead:
            return []
        made = [job for job in jobs if job.key != "unlike"]
        self.cache.update(job.key for job in made)
        return [Compiled(job, 1.25 * number) for number, job in enumerate(made)]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys in Triton's cache; every kernel can be told but one named `inner`."""
    keys = {"known"}

    def told(key: str, compile_fn: Any) -> Any:
        return None if key == "inner" else SimpleNamespace(key=key, name=f"_{key}")

    monkeypatch.setattr(ahead, "describe", told)
    monkeypatch.setattr(ahead, "cached", lambda key, compile_fn: key in keys)
    return keys


NAMES = ("known", "one", "unlike", "inner", "within")


def one_of_each(kernels: dict[str, Kernel]) -> None:
    for name in ("known", "one", "unlike", "inner"):
        launch(kernels[name])
    with attention._warp_level_products():
        launch(kernels["within"])
    launch(kernels["one"])


def test_other_processes_compile_what_they_can_be_told(mode: Any, cache: set[str]) -> None:
    kernels = {name: Kernel(name, mode) for name in NAMES}
    compilers = Compilers(cache)
    with ahead.compiling(compilers) as compiler:
        assert compiler is not None
        compiler.run(partial(one_of_each, kernels))
        assert compilers.asked == []
        made = compiler.finish()
    # Once, and not what is there.
    assert compilers.asked == ["one", "unlike", "within"]
    # Kept by this process, which finds it; but for the one whose launch has a setting of its own.
    assert all(kernels[name].cache["made"] for name in ("known", "one", "unlike", "inner"))
    assert kernels["within"].cache == {}
    # What they did not compile and what they cannot be told, this one has.
    assert (made.there, [one.job.key for one in made.told], made.here) == (1, ["one", "within"], 2)


def test_what_other_processes_have_not_compiled_threads_compile(mode: Any, cache: set[str]) -> None:
    kernels = {name: Kernel(name, mode) for name in NAMES}
    compilers = Compilers(cache, dead=True)
    with ahead.compiling(compilers) as compiler:
        assert compiler is not None
        compiler.run(partial(one_of_each, kernels))
        made = compiler.finish()
    assert compilers.asked == ["one", "unlike", "within"]
    assert all(kernels[name].cache["made"] for name in ("known", "one", "unlike", "inner"))
    assert (made.there, made.told, made.here) == (1, (), 3)
    # Never by a thread, which has no setting of its own.
    assert kernels["within"].cache == {}


def job(name: str, key: str = "") -> Any:
    return SimpleNamespace(name=name, key=key)


@pytest.mark.parametrize(
    ("there", "told", "here", "line"),
    [
        (2, (("_add", 0.3), ("_skinny_gemm", 9.14), ("_scores", 2.0)), 2,
         "7 kernels made ready in 47.4 s: 2 were there, 3 compiled by 16 processes "
         "(longest _skinny_gemm 9.1 s), 2 by the server"),
        (31, (), 0, "31 kernels made ready in 47.4 s: 31 were there"),
        (1, (("_add", 0.3),), 0,
         "2 kernels made ready in 47.4 s: 1 was there, 1 compiled by 16 processes "
         "(longest _add 0.3 s)"),
        (0, (), 1, "1 kernel made ready in 47.4 s: 1 compiled by the server"),
        (0, (), 0, "0 kernels made ready in 47.4 s"),
    ],
)  # fmt: skip
def test_the_log_says_who_had_what(
    there: int, told: tuple[tuple[str, float], ...], here: int, line: str
) -> None:
    compiled = tuple(Compiled(job(name), seconds) for name, seconds in told)
    assert str(ahead.Made(there, compiled, here, 16, 47.41)) == line


def test_other_threads_launch_meanwhile(mode: Any) -> None:
    kernel = Kernel("one", mode)

    def step() -> None:
        other = threading.Thread(target=lambda: kernel.run(grid=(1,), warmup=False))
        other.start()
        other.join()

    with ahead.compiling() as compiler:
        assert compiler is not None
        compiler.run(step)
    assert Kernel.launched == [("one", False)]


def test_nothing_is_compiled_ahead_where_triton_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "INTERPRETED", True)
    with ahead.compiling() as compiler:
        assert compiler is None


def deepgemm_linear(**_: Any) -> torch.Tensor:
    return torch.zeros(1)


def triton_linear(**_: Any) -> torch.Tensor:
    return torch.ones(1)


def layer(linear: Any) -> torch.nn.Module:
    module = torch.nn.Module()
    module.quant_method = SimpleNamespace(w8a8_block_fp8_linear=linear)  # type: ignore[assignment]
    return module


def weights(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(n, k).to(torch.float8_e4m3fn)
    return weight, torch.rand(n // 128, k // 128) + 0.5


def test_only_what_deep_gemm_computes_is_torchs_and_is_given_back() -> None:
    model = torch.nn.ModuleList([layer(deepgemm_linear), layer(triton_linear), layer(None)])
    methods: list[Any] = [module.quant_method for module in model]
    weight, scales = weights(256, 384)
    x = torch.randn(2, 3, 384, dtype=torch.bfloat16)
    given = {"weight": weight, "block_size": [128, 128], "weight_scale": scales}
    other = {**given, "block_size": [32, 32]}
    found: list[torch.Tensor] = []

    def failing() -> None:
        with reference.products_of_torch(model):
            assert methods[1].w8a8_block_fp8_linear is triton_linear
            mine = methods[0].w8a8_block_fp8_linear
            found.extend([mine(input=x, input_scale=None, bias=None, **given), mine(x, **other)])
            raise MemoryError

    with pytest.raises(MemoryError):
        failing()
    out, stocks = found
    assert stocks.shape == (1,)
    assert methods[0].w8a8_block_fp8_linear is deepgemm_linear
    codes, of_rows = reference_quantize(x.view(6, 384))
    exact = codes.double() * of_rows.double().repeat_interleave(128, 1)
    whole = scales.double().repeat_interleave(128, 0).repeat_interleave(128, 1)
    expected = exact @ (weight.double() * whole).T
    assert out.shape == (2, 3, 256)
    assert out.dtype == torch.bfloat16
    assert ((out.view(6, 256) - expected).abs() <= expected.abs() * 2**-8 + 1e-3).all()


def test_a_wide_weight_is_multiplied_in_parts() -> None:
    weight, scales = weights(reference._ROWS + 256, 128)
    codes, of_rows = reference_quantize(torch.randn(4, 128, dtype=torch.bfloat16))
    out = reference.product(codes, of_rows, weight, scales)
    assert out.shape == (4, reference._ROWS + 256)
    last = reference.product(codes, of_rows, weight[-256:].contiguous(), scales[-2:])
    assert torch.equal(out[:, -256:], last)
