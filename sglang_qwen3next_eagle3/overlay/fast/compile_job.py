"""One kernel to be compiled by another process: what Triton was asked for, told in full.

What another process compiles ends in Triton's cache, under a key that does not tell everything the
compiler looks at. So it is compiled there only if all of this is the same as where it was asked
for, and the worst of a difference is that the kernel is compiled at its launch.
"""

import hashlib
import importlib
import inspect
import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, Final

from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, get_cache_key, make_backend
from triton.compiler.compiler import compile as compile_source
from triton.language import constexpr
from triton.runtime.cache import get_cache_manager
from triton.runtime.driver import driver
from triton.runtime.jit import JITCallable

_KNOBS: Final = ("cache", "compilation", "language", "nvidia", "runtime")
_HIDDEN: Final = {"CUDA_VISIBLE_DEVICES": ""}
"""No process that compiles is one on a GPU."""


class Unlike(Exception):
    """Here it would not be the same kernel."""


@dataclass(frozen=True)
class Job:
    """module, name: where the kernel is. request: pickled signature, constants, attributes, options
    and target. key: under which Triton's cache has it, hashed; file: what of it there is last.
    settings: those of the environment that Triton's compiler says it reads. knobs: what else
    Triton was told, its tools among it. backend: what Triton's key says of the tools, as Triton has
    kept it. references: what the kernel and those that it calls are; source: what Triton's key says
    of that. constants: pickled, `constexpr` among them by module and name, which a module
    may decide by the GPU that it sees when it is imported. environment: of who asks.
    """

    module: str
    name: str
    request: bytes
    key: str
    file: str
    settings: dict[str, str]
    knobs: str
    backend: str
    references: str
    source: str
    constants: bytes
    environment: dict[str, str]

    @property
    def ours(self) -> bool:
        return self.module.partition(".")[0] == __name__.partition(".")[0]

    def cached(self) -> bool:
        """Whether a launch would find it."""
        return _whole(self.key, self.file)


def cached(key: str, compile_fn: Callable[[], Any]) -> bool:
    """Whether a launch would find what Triton handed over to be compiled, whether or not another
    process can be told; False where there is no telling."""
    try:
        return _whole(_hashed(key), _last_file(_asked(compile_fn)["src"]))
    except Exception:
        return False


def _whole(key: str, file: str) -> bool:
    """What is there is whole: this file is written last."""
    group = get_cache_manager(key).get_group(file) or {}
    return file in group and not knobs.compilation.always_compile


def _last_file(source: ASTSource) -> str:
    return f"{source.name[:150]}.json"


def _asked(compile_fn: Callable[[], Any]) -> Mapping[str, Any]:
    """The variables of `JITFunction._do_compile`."""
    return inspect.getclosurevars(compile_fn).nonlocals


def describe(key: str, compile_fn: Callable[[], Any]) -> Job | None:
    """What Triton handed over to be compiled, as another process can be told; None where it cannot.

    compile_fn: of `JITFunction._do_compile`, whose variables are looked at.
    """
    try:
        asked = _asked(compile_fn)
        source, options, target = asked["src"], asked["options"], asked["target"]
        kernel = source.fn
        module, name = kernel.fn.__module__, kernel.fn.__qualname__
        if type(source) is not ASTSource or find(module, name) is not kernel:
            return None
        if module == "__main__" or knobs.runtime.add_stages_inspection_hook is not None:
            return None
        place = target.backend, target.arch, target.warp_size
        request = source.signature, source.constants, source.attrs, options.__dict__, place
        return Job(
            module,
            name,
            _dumped(request),
            _hashed(key),
            _last_file(source),
            dict(asked["env_vars"]),
            told_triton(),
            make_backend(target).hash(),
            references(kernel),
            kernel.cache_key,
            _dumped(constants(kernel)),
            dict(os.environ),
        )
    except Exception:
        return None


def compile_here(job: Job) -> None:
    """Compile into Triton's cache, in a process that does nothing else, before or behind it.

    Raises:
        Unlike: it would not be what was asked for.
    """
    os.environ.clear()
    os.environ.update({**job.environment, **_HIDDEN})
    kernel = find(job.module, job.name)
    signature, constants, attributes, options, place = _loaded(job.request)
    target = GPUTarget(*place)
    # Kernels may ask for it while they are compiled.
    driver.set_active(_Driver(target))
    settings = get_cache_invalidating_env_vars()
    source = ASTSource(kernel, signature, constants, attributes)
    backend = make_backend(target)
    parsed = backend.parse_options(dict(options, **source.parse_options()))
    _same("settings of the compiler", settings, job.settings)
    _same("what Triton was told", told_triton(), job.knobs)
    # The tool that assembles was shown to be the same with that. Triton asks it for its version
    # once in a process, and torch sets another tool in the environment meanwhile: what the server's
    # Triton has kept is of the first one, and the key that it looks under is made of it.
    type(backend).hash = lambda _: job.backend
    for (module, name), value in _loaded(job.constants).items():
        setattr(importlib.import_module(module), name, constexpr(value))
    _same("sources", references(kernel), job.references)
    # It was shown to be the same, and what else Triton has hashed here does not count.
    kernel.hash = job.source
    key = _hashed(get_cache_key(source, backend, parsed, settings))
    _same("Triton's key", key, job.key)
    compile_source(source, target=target, options=options)


def find(module: str, name: str) -> Any:
    """The kernel of a module; what tunes it or chooses its options stands around it."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    while not isinstance(found, JITCallable):
        found = found.fn
    return found


def references(kernel: Any) -> str:
    """What a kernel is and those that it calls: their sources, and what the names in them stand
    for.

    Triton's key is no substitute. It tells values, but of which of Triton's own functions a name
    is, though modules decide such things by the GPU that they see when they are imported. And the
    key of a kernel is another one where what it calls was asked for its own before.
    """
    return repr(sorted(set(_references(kernel, set()))))


def constants(kernel: Any) -> dict[tuple[str, str], Any]:
    """The values of `constexpr` among the globals of a kernel's module that it names, and of those
    that it calls, by module and name."""
    return dict(_constants(kernel, set()))


def _constants(kernel: Any, seen: set[int]) -> Iterator[tuple[tuple[str, str], Any]]:
    seen.add(id(kernel))
    function, scope = kernel.fn, kernel.get_capture_scope()
    for name in set(_names(function.__code__)):
        value = scope.get(name)
        if isinstance(value, JITCallable) and id(value) not in seen:
            yield from _constants(value, seen)
        elif isinstance(value, constexpr) and function.__globals__.get(name) is value:
            yield (function.__module__, name), value.value


def _references(kernel: Any, seen: set[int]) -> Iterator[str]:
    seen.add(id(kernel))
    function = kernel.fn
    itself = f"{function.__module__}.{function.__qualname__}"
    defaults = function.__defaults__, function.__kwdefaults__
    yield f"{itself}: {_hashed(kernel.src)} in line {kernel.starting_line_number}, {defaults}"
    yield f"{itself}: noinline is {getattr(kernel, 'noinline', None)}"
    names, scope = sorted(set(_names(function.__code__))), kernel.get_capture_scope()
    for name in names:
        value = scope.get(name)
        values = {name: value}
        if isinstance(value, ModuleType):
            values.update({f"{name}.{of}": getattr(value, of, None) for of in names})
        for called, one in values.items():
            if isinstance(one, JITCallable) and id(one) not in seen:
                yield from _references(one, seen)
            yield f"{itself}: {called} is {_spelled(one)}"


def _names(code: CodeType) -> Iterator[str]:
    yield from (*code.co_names, *code.co_freevars)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _spelled(value: Any) -> str:
    if isinstance(value, JITCallable):
        value = value.fn
    if isinstance(value, ModuleType):
        return value.__name__
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


class _Driver:
    """Triton's driver of a GPU that this process does not see."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        """Kernels among the constants, by where they are."""
        if not isinstance(obj, JITCallable):
            return None
        module, name = obj.fn.__module__, obj.fn.__qualname__
        if find(module, name) is not obj:
            raise pickle.PicklingError(f"{name} is not where it says")
        return module, name


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return find(*pid)


def _dumped(what: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(what)
    return file.getvalue()


def _loaded(text: bytes) -> Any:
    return _Unpickler(io.BytesIO(text)).load()


def told_triton() -> str:
    """The knobs of Triton, whether of the environment or set by somebody."""
    told: dict[str, Any] = {}
    for name in _KNOBS:
        group = getattr(knobs, name)
        for knob in group.knob_descriptors:
            try:
                told[f"{name}.{knob}"] = getattr(group, knob)
            except Exception as error:
                # A tool that there is not.
                told[f"{name}.{knob}"] = type(error).__name__
    return repr(told)


def _hashed(key: str) -> str:
    """As Triton names the folders of its cache."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def _same(what: str, here: Any, asked: Any) -> None:
    if here != asked:
        raise Unlike(f"{what} differ: {here} here, {asked} asked for")
