"""Real servers on the CPU, one for each draft tree, started once by a worker, and the oracle."""

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS, SEAMS
from tests.support.demo_server import (
    RETRACT,
    Oracle,
    cpu_environment,
    plain_command,
    scarce,
    with_ids,
)
from tests.support.server import Server, free_port, running

# Workers share the cores, and the model of the oracle is small. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

INVENTED_COSTS = "3,4,8 1:60/30 8:200/100"
"""Nobody measured the demo's cycles; with these the metrics of the cost model are there."""

QUESTIONS = (
    "Write a Python function to merge two sorted lists.",
    "How do I read a file line by line?",
    "Explain what a list comprehension is.",
    "Write a class for a shopping cart.",
    "What does HTTP status 404 mean?",
    "Write a binary search.",
    "Give me a recipe for pancakes.",
    "def fibonacci(n):",
    "Sort a dictionary by its values.",
    "Why is the sky blue?",
    "Write a test for a stack.",
    "Parse a date in Python, please. It looks like 2024-05-01, sometimes with a time behind it.",
)


SHARED = {
    "chain_server": "servers of chains",
    "narrow_server": "servers of chains",
    "tree_server": "servers of the tree",
    "plain_server": "servers of the tree",
}
"""What a worker starts once, below, and whose: all on one worker would last longer than all else
together. Both start the plain server, which answers are compared to."""


@cache
def fixtures_of(file: Path) -> set[str]:
    """The shared servers that a file names: a test has a fixture by its name."""
    return set(SHARED) & set(re.findall(r"\w+", file.read_text(encoding="utf-8")))


def group_of(file: Path, nodeid: str) -> str | None:
    """By the server that a test is run with, or by those of its file."""
    named = [name for name in SHARED if name in nodeid.partition("[")[2]]
    return next((SHARED[name] for name in SHARED if name in (named or fixtures_of(file))), None)


class SharedServersTogether(LoadFileScheduling):
    """A file's tests go to one worker, and those that share servers to the one that starts them."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return group_of(self.config.rootpath / file, nodeid) or file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return SharedServersTogether(config, log) if config.getvalue("dist") == "loadfile" else None


LONG = (
    "test_train_chain.py",
    "test_cycles.py",
    "test_installed_sglang.py",
    "test_capture_backends.py",
    "test_ends.py",
)
"""What lasts longest of the rest, 100 seconds and more where a worker has a core for itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lasts longest begins first, so that no worker is left alone with it."""

    def place(item: pytest.Item) -> int:
        if shares(item):
            return 0
        return 1 + (LONG.index(item.path.name) if item.path.name in LONG else len(LONG))

    items.sort(key=place)


def shares(item: pytest.Item) -> bool:
    return group_of(item.path, item.nodeid) is not None


SERVERS = pytest.StashKey[contextlib.ExitStack]()
"""Those that run and are shared: each takes 1.7 GB."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """They end with their last test, not with all that the worker does afterwards."""
    if shares(item) and not (nextitem and shares(nextitem)) and SERVERS in item.config.stash:
        item.config.stash[SERVERS].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed since its server had ended shows why it had."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, Server) and (said := value.last_words()) is not None:
                report.sections.append((f"log of {name}", said))
    return report


@pytest.fixture(scope="session", autouse=True)
def started_warm(warm_starts: None) -> None:
    """Servers, and what else is named in tests/support/warm.py."""


@pytest.fixture(scope="session")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="session")
def oracle(pair: DemoPair, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers of this run
    answers = folder / "answers"
    answers.mkdir(exist_ok=True)
    return Oracle(pair.target, QUESTIONS, answers)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Iterator[contextlib.ExitStack]:
    """What ends the shared servers."""
    with contextlib.ExitStack() as servers:
        pytestconfig.stash[SERVERS] = servers
        yield servers


@pytest.fixture(scope="session")
def tree_server(pair: DemoPair, logs: Path, shared: contextlib.ExitStack) -> Server:
    """Wide tree (3, 4, 8), as `launch --profile demo` starts it."""
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    return shared.enter_context(
        running(command, port, logs / "tree.log", {CYCLE_COSTS: INVENTED_COSTS})
    )


@pytest.fixture(scope="session")
def chain_server(pair: DemoPair, logs: Path, shared: contextlib.ExitStack) -> Server:
    """Chain (3, 1, 4) by the card's plain command, with our seams; the head's config names no
    layers."""
    port = free_port()
    head = with_ids(pair, logs / "head-without-ids", None)
    command = plain_command(pair.target, head, (3, 1, 4), port)
    told = cpu_environment() | {SEAMS: "on"}
    return shared.enter_context(running(command, port, logs / "chain.log", told))


@pytest.fixture(scope="session")
def narrow_server(pair: DemoPair, logs: Path, shared: contextlib.ExitStack) -> Server:
    """Chain (5, 1, 6) by the card's plain command, where everything is scarce; the head's ids
    include the last layer."""
    port = free_port()
    head = with_ids(pair, logs / "head-with-last-layer", [3, 7, 11])
    command = scarce(plain_command(pair.target, head, (5, 1, 6), port))
    return shared.enter_context(
        running(command, port, logs / "narrow.log", cpu_environment() | RETRACT)
    )


@pytest.fixture(scope="session")
def plain_server(logs: Path, shared: contextlib.ExitStack) -> Server:
    """The demo's target without speculation."""
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--no-speculation"]
    return shared.enter_context(running([*command, "--port", str(port)], port, logs / "plain.log"))
