"""The seams of a cycle under mixed load, beside a server without them, on one or more GPUs.

    python -m tests.gpu.soak_seams --out OUT [--seams cycle,requests,...] [--seconds 400]
    python -m tests.gpu.soak_seams --out OUT --tp 2 --at-once --in-turn OUT/turn \\
        -- --enforce-disable-flashinfer-allreduce-fusion

Two servers with the demo pair and 3,1,4, one with SGLang's own cycles. Both are asked the same
questions one at a time: there every answer must be the same. Then each gets 200 mixed requests, 16
at once: greedy, sampled, with a grammar, logprobs or penalties, hung up on in the stream or before
an answer, aborted, and every 13th step takes one request its place (as SGLang does where its
memory is full). In bf16 the size of the batch, which depends on the time, moves greedy answers; so
under load the shares of equal answers of the two servers stand beside each other, and it has failed
where that with seams is below the other by more than chance makes it. An answer that is wrong on
both servers alike is SGLang's, or what the overlay makes of requests, and none of the seams: it is
named, and no failure of theirs. Of sampled answers some are
drawn among one token: these are greedy ones, and count as such. Then some long ones come together
and with nothing beside them, greedy and then sampled, so that cycles of several requests are
recorded, too. At the end all is asked one at a time again. Where `cycle` is among the seams the
soak has failed, too, if the log does not say that cycles of one request and of several (with
`sampled`, of sampled ones) were recorded, or says that any were not; and with several ranks where
`requests` is, if it does not say that these hear of turns without requests through shared memory.
Which were is printed, and a table last; soak.json has the same.

With several ranks the demo target is widened so that it can be divided among them
(tests/support/widened_demo.py), and `sampled`, which is for one GPU, is not among the seams unless
it is named. Servers that share their GPUs are best asked in turn (--in-turn), for the ranks of one
wait for each other while another server has one of the GPUs; other runs that name the same file,
as check_text does, then wait, too.

It ends by itself at --seconds. `--profile demo` is for a CPU, where seams are left to SGLang
(answers do not depend on the batch there, so all of them must be equal under load, too).
"""

import argparse
import math
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import yaml

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import ServerFailed
from sglang_qwen3next_eagle3.base.files import data_dir, write_json
from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
from sglang_qwen3next_eagle3.base.redact import without_paths
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.overlay.environment import SEAMS
from sglang_qwen3next_eagle3.overlay.fast.stages import RANKS
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL
from tests.support.turns import own_turn
from tests.support.widened_demo import widened_demo

T = TypeVar("T")
GPU_FLAGS: Final = (
    "--dtype bfloat16 --mem-fraction-static 0.2 --max-running-requests 16 --skip-server-warmup "
    "--cuda-graph-bs-decode 1 2 4 8 16 --disable-prefill-cuda-graph --max-total-tokens 32768 "
    "--context-length 4096"
).split()
RETRACTING: Final = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "13"}
KINDS: Final = (
    "greedy", "sampled", "greedy", "grammar", "greedy", "hung up", "logprobs", "greedy",
    "penalties", "aborted", "one of one", "sampled", "left",
)  # fmt: skip
SAME: Final = ("greedy", "grammar", "logprobs", "penalties", "one of one")
"""Kinds whose answer is known beforehand."""
GRAMMAR: Final = "(yes|no), because [a-z ]{1,40}"
PATIENCE: Final = 120.0
TOGETHER: Final = 4
"""Requests of one kind, without anything else beside them, that come at once."""
_RECORDED: Final = re.compile(r"cycles of (\d+) (sampled )?requests are recorded: (\d+) steps")
_SHARED: Final = "requests are broadcast only where there are some"
_NOT_RECORDED: Final = ("stay SGLang's", "no cycles are recorded", "several graphs")
LEFT_AFTER: Final = 0.4
"""Seconds after which a client is gone that has seen nothing of its answer."""
_TASKS = ("Write a class for {}.", "Explain {}.", "Sort {} by its values.", "Test {}.")
_THINGS = ("a stack", "a heap", "a queue", "a trie", "a graph", "a matrix", "a date")


class Limit:
    """When all of it ends."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()


def kind_of(number: int) -> str:
    return KINDS[number % len(KINDS)]


def body(number: int, longest: int) -> dict[str, Any]:
    """Of /generate; the same number is the same request. longest: tokens of an answer."""
    kind = kind_of(number)
    task = _TASKS[number % len(_TASKS)].format(_THINGS[number // len(_TASKS) % len(_THINGS)])
    sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8 + number * 7 % (longest - 7)}
    asked: dict[str, Any] = {
        "text": f"<|im_start|>user\n{task} Case {number}.<|im_end|>\n<|im_start|>assistant\n",
        "sampling_params": sampling,
    }
    if kind == "one of one":
        sampling |= {"temperature": 0.8, "top_k": 1}
    elif kind == "sampled":
        # Half of them with all three; the other half is what most clients send.
        sampling |= {"temperature": 0.8, "top_p": 0.9} | ({"top_k": 20} if number % 3 else {})
    elif kind == "grammar":
        sampling["regex"] = GRAMMAR
    elif kind == "penalties":
        sampling |= {"frequency_penalty": 0.3, "min_new_tokens": 8}
    elif kind == "logprobs":
        asked |= {"return_logprob": True, "top_logprobs_num": 2}
    elif kind not in SAME:
        sampling |= {"max_new_tokens": 1500, "ignore_eos": True}
    return asked


class Asking:
    """A server, and what its answers were when they came one at a time."""

    def __init__(self, url: str, limit: Limit, longest: int) -> None:
        self.url, self._limit, self._longest = url, limit, longest
        self._client = httpx.Client(
            trust_env=False, limits=httpx.Limits(max_connections=64, max_keepalive_connections=16)
        )
        self.known: dict[int, str] = {}

    def patience(self) -> float:
        return max(1.0, min(PATIENCE, self._limit.left()))

    def ask(self, number: int) -> str:
        """The text of a request whose answer comes whole.

        Raises:
            httpx.HTTPError: it was not answered. ValueError: the answer is not what was asked for.
        """
        reply = self._client.post(
            f"{self.url}/generate", json=body(number, self._longest), timeout=self.patience()
        )
        reply.raise_for_status()
        answer = reply.json()
        said, meta = str(answer["text"]), answer["meta_info"]
        ended = meta["finish_reason"]["type"] == "stop"
        if kind_of(number) == "grammar" and ended and re.fullmatch(GRAMMAR, said) is None:
            raise ValueError("not of its grammar")
        if kind_of(number) == "logprobs":
            told = [each[0] for each in meta["output_token_logprobs"]]
            if len(told) != meta["completion_tokens"]:
                raise ValueError("not as many logprobs as tokens")
            if not all(math.isfinite(each) and each <= 0 for each in told):
                raise ValueError("a logprob that is none")
        return said

    def whole(self, numbers: list[int]) -> dict[int, str]:
        """Answers, one at a time."""
        return {number: self.ask(number) for number in numbers}

    def under_load(self, number: int, turn: int) -> str:
        """What became of one of many at once."""
        kind = kind_of(number)
        try:
            if kind in ("hung up", "aborted"):
                return self._broken_off(number, f"{turn}-{number}", abort=kind == "aborted")
            if kind == "left":
                try:
                    self._client.post(
                        f"{self.url}/generate", json=body(number, self._longest), timeout=LEFT_AFTER
                    )
                except httpx.ReadTimeout:
                    return "left"
                return "answered before its client left"
            said = self.ask(number)
        except httpx.HTTPError as error:
            return f"lost: {kind}: {type(error).__name__}"
        except ValueError as error:
            return f"wrong: {kind}: {error}"
        if kind == "sampled":
            return "sampled" if said else "wrong: sampled: nothing"
        return "equal" if said == self.known[number] else "another text"

    def together(self, kind: str) -> int:
        """How many of TOGETHER long ones of a kind were answered in full."""
        numbers = range(TOGETHER * len(KINDS))
        chosen = [number for number in numbers if kind_of(number) == kind][:TOGETHER]

        def one(number: int) -> bool:
            asked = body(number, self._longest)
            asked["sampling_params"] |= {"max_new_tokens": 300, "ignore_eos": True}
            try:
                reply = self._client.post(
                    f"{self.url}/generate", json=asked, timeout=self.patience()
                )
                reply.raise_for_status()
            except httpx.HTTPError:
                return False
            return bool(reply.json()["meta_info"]["completion_tokens"] == 300)

        with ThreadPoolExecutor(TOGETHER) as pool:
            return sum(pool.map(one, chosen))

    def _broken_off(self, number: int, name: str, *, abort: bool) -> str:
        asked = body(number, self._longest) | {"stream": True, "rid": name}
        with self._client.stream(
            "POST", f"{self.url}/generate", json=asked, timeout=self.patience()
        ) as reply:
            reply.raise_for_status()
            events = 0
            for line in reply.iter_lines():
                events += line.startswith("data: ")
                if events == 3 and not abort:
                    return "hung up"
                if events == 3:
                    httpx.post(
                        f"{self.url}/abort_request",
                        json={"rid": name},
                        timeout=self.patience(),
                        trust_env=False,
                    )
        # To its end: an answer that is aborted ends, too.
        return "aborted"

    def load(self, count: int, distinct: int) -> dict[str, Any]:
        """`count` requests, 16 at once."""
        begun = time.monotonic()

        def one(turn: int) -> str:
            if self._limit.left() < 1:
                return "lost: no time"
            return self.under_load(turn % distinct, turn)

        with ThreadPoolExecutor(16) as pool:
            came = dict(sorted(Counter(pool.map(one, range(count))).items()))
        return {**came, "seconds": round(time.monotonic() - begun, 1)}


def seams_of(named: str | None, ranks: int) -> str:
    """Those under proof: what is named, or all that a server of so many ranks can have."""
    return named or ",".join(seam for seam in ALL if seam != "sampled" or ranks == 1)


def command_of(
    arguments: argparse.Namespace, folder: Path, port: int, target: Path | None = None
) -> list[str]:
    """folder: gets a profile. target: in place of the demo pair's."""
    words = ["-m", "sglang_qwen3next_eagle3.launch", "--port", str(port)]
    if arguments.profile == "demo":
        words += ["--profile", "demo", "--tree", "3,1,4"]
        return [*words, "--", *arguments.flags] if arguments.flags else words
    pair = demo_pair()
    profile = yaml.safe_load((data_dir("launch") / "h200-fp8.yaml").read_text())
    profile["tree"] = {"steps": 3, "topk": 1, "draft-tokens": 4}
    own = folder / "chain.yaml"
    own.write_text(yaml.safe_dump(profile, sort_keys=False))
    words += ["--profile", str(own), "--target", str(target or pair.target)]
    words += ["--head", str(pair.head)]
    words += ["--tp", str(arguments.tp)] if arguments.tp > 1 else []
    return [*words, "--", *GPU_FLAGS, *arguments.flags]


def measure(
    arguments: argparse.Namespace, urls: dict[str, str], limit: Limit, found: dict[str, Any]
) -> None:
    """How many answers were the same before, under and after the load; found: by server."""
    asking = {name: Asking(url, limit, arguments.longest) for name, url in urls.items()}
    numbers = [number for number in range(arguments.distinct) if kind_of(number) in SAME]
    found |= {name: {"of": len(numbers)} for name in urls}

    def each(ask: Callable[[Asking], T]) -> dict[str, T]:
        def in_turn(one: Asking) -> T:
            with own_turn(arguments.in_turn):
                return ask(one)

        with ThreadPoolExecutor(len(asking) if arguments.at_once else 1) as pool:
            return dict(zip(asking, pool.map(in_turn, asking.values()), strict=True))

    def alone(turn: str) -> None:
        answers = each(lambda one: one.whole(numbers))
        for name, one in asking.items():
            one.known = one.known or answers[name]
            known = asking["off"].known
            found[name][turn] = sum(answers[name][number] == known[number] for number in numbers)

    # Several times: a cycle is recorded when a size of a batch comes the third time.
    alone("alone, first")
    alone("alone, again")
    for name, load in each(lambda one: one.load(arguments.requests, arguments.distinct)).items():
        found[name]["load"] = load
    for name, one in asking.items():
        with own_turn(arguments.in_turn):
            found[name]["together"] = min(one.together(kind) for kind in ("greedy", "sampled"))
    alone("alone, afterwards")


def read(log: Path) -> dict[str, Any]:
    """What a server's log tells of the load."""
    text = log.read_text(encoding="utf-8", errors="replace")
    retracted = sum(map(int, re.findall(r"#retracted_reqs: (\d+)", text)))
    said = re.findall(r"sglang-qwen3next-eagle3: (seams on.*|.*cycles.*|requests are .*)", text)
    return {
        "retracted": retracted,
        "tracebacks": text.count("Traceback"),
        "said": sorted(set(said)),
    }  # fmt: skip


def fewer(found: dict[str, Any]) -> str | None:
    """Whether with seams fewer of the answers under load are those that came alone than without, by
    more than three standard deviations of the difference of two shares of one chance."""
    told = [found[name].get("load", {}) for name in ("off", "on") if name in found]
    same = [load.get("equal", 0) for load in told]
    of = [load.get("equal", 0) + load.get("another text", 0) for load in told]
    if len(told) < 2 or not all(of):
        return None
    off, on = (each / whole for each, whole in zip(same, of, strict=True))
    chance = sum(same) / sum(of)
    allowed = 3 * math.sqrt(chance * (1 - chance) * sum(1 / whole for whole in of))
    if off - on <= allowed:
        return None
    return f"on: {on:.0%} equal under load, without seams {off:.0%}: {allowed:.0%} would be chance"


def alike(found: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """What was wrong on both servers, so that the seams are not to blame: how often without and
    with them. What is more frequent with them than chance explains is not of it."""
    off, on = (found.get(name, {}).get("load", {}) for name in ("off", "on"))
    return {
        key: (off[key], on[key])
        for key in off
        if key.startswith("wrong")
        and on.get(key)
        and on[key] - off[key] <= 3 * math.sqrt(on[key] + off[key])
    }


def recorded(said: Sequence[str]) -> dict[str, list[int]]:
    """Of how many requests cycles were recorded, by a server's log: of all greedy, and of sampled
    ones."""
    found: dict[str, set[int]] = {"greedy": set(), "sampled": set()}
    for line in said:
        for size, sampled, _ in _RECORDED.findall(line):
            found["sampled" if sampled else "greedy"].add(int(size))
    return {kind: sorted(sizes) for kind, sizes in found.items()}


def unrecorded(said: Sequence[str], joined: bool, sampled: bool = False) -> list[str]:
    """Which cycles a server should have recorded and has not, by its log. joined: a recorded cycle
    is one launch. sampled: those of sampled requests, too."""
    reasons = [f"on: {line}" for line in said if any(words in line for words in _NOT_RECORDED)]
    sizes = recorded(said)
    every = {*sizes["greedy"], *sizes["sampled"]}
    if 1 not in every:
        reasons.append("on: no cycle of one request was recorded")
    if not any(size > 1 for size in every):
        reasons.append("on: no cycle of several requests was recorded")
    if sampled and not sizes["sampled"]:
        reasons.append("on: no cycle of sampled requests was recorded")
    if joined:
        steps = [(size, int(count)) for line in said for size, _, count in _RECORDED.findall(line)]
        reasons += [f"on: {count} launches a cycle of {size}" for size, count in steps if count > 1]
    return reasons


def wrong(
    found: dict[str, Any], requests: int, exact: bool, seams: str = "", ranks: int = 1
) -> list[str]:
    """Why the soak has failed; empty where it has not. exact: also under load all must be equal,
    and nothing wrong. seams: what the log of "on" has to tell of."""
    reasons = []
    of_both = {} if exact else alike(found)
    for name, figures in found.items():
        of, load = figures["of"], figures.get("load", {})
        for turn in ("first", "again", "afterwards"):
            if (same := figures.get(f"alone, {turn}", 0)) != of:
                reasons.append(f"{name}: {same} of {of} alone, {turn}")
        reasons += [f"{name}: {key} ({count})" for key, count in load.items()
                    if key.startswith(("lost", "wrong")) and key not in of_both]  # fmt: skip
        if exact and load.get("another text"):
            reasons.append(f"{name}: another text under load ({load['another text']})")
        never = [kind for kind in ("equal", "sampled", "hung up", "aborted", "left")
                 if not load.get(kind)]  # fmt: skip
        if requests >= 4 * len(KINDS):
            reasons += [f"{name}: nothing was {kind}" for kind in never]
            reasons += [] if figures["retracted"] else [f"{name}: nothing was retracted"]
        if figures["tracebacks"]:
            reasons.append(f"{name}: {figures['tracebacks']} tracebacks in its log")
        if (answered := figures.get("together", TOGETHER)) != TOGETHER:
            reasons.append(f"{name}: {answered} of {TOGETHER} together")
    words = seams.split(",")
    if "cycle" in words and "on" in found:
        said = found["on"].get("said", ())
        reasons += unrecorded(said, joined="relay" in words, sampled="sampled" in words)
    if "requests" in words and "on" in found and ranks > 1:
        heard = _SHARED in found["on"].get("said", ())
        reasons += [] if heard else ["on: its log does not say that " + _SHARED]
    return [*reasons, *filter(None, [fewer(found)])]


def table(found: dict[str, Any]) -> str:
    """A column a server."""
    rows: dict[str, list[str]] = {}
    for place, figures in enumerate(found.values()):
        flat = {key: value for key, value in figures.items() if key not in ("load", "said", "of")}
        flat |= {f"load: {key}": value for key, value in figures.get("load", {}).items()}
        for key, value in flat.items():
            told = f"{value} of {figures['of']}" if key.startswith("alone") else str(value)
            rows.setdefault(key, [markdown.NOTHING] * len(found))[place] = told
    return markdown.table(["", *found], [[key, *values] for key, values in rows.items()])


def soak(arguments: argparse.Namespace, limit: Limit, found: dict[str, Any]) -> None:
    """found: by server, what was seen, also where it did not come to its end.

    Raises:
        ServerFailed, httpx.HTTPError, ValueError: it did not.
    """
    logs = {name: arguments.out / f"{name}.log" for name in ("off", "on")}
    with ExitStack() as stack:
        target = None
        if arguments.tp > 1 and arguments.profile != "demo":
            private = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            target = widened_demo(demo_pair().target, private / "target", arguments.tp)
        urls: dict[str, str] = {}
        servers: dict[str, Child] = {}

        def wait(name: str) -> None:
            took = servers[name].wait_until(lambda: healthy(urls[name]), limit.left())
            print(f"{name}: ready after {took:.0f} s more", flush=True)

        for place, name in enumerate(logs):
            port = free_port()
            environment = {SEAMS: arguments.seams if name == "on" else "off", **RETRACTING}
            # Several servers share the GPUs, which SGLang takes for a fault.
            environment["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] = "0"
            if arguments.devices:
                environment["CUDA_VISIBLE_DEVICES"] = arguments.devices[place]
            urls[name] = f"http://127.0.0.1:{port}"
            command = [sys.executable, *command_of(arguments, arguments.out, port, target)]
            servers[name] = stack.enter_context(child(command, logs[name], environment=environment))
            # Where they share a GPU, each measures what memory is left.
            if not (arguments.devices or arguments.at_once or arguments.profile == "demo"):
                wait(name)
        for name in logs:
            wait(name)
        try:
            measure(arguments, urls, limit, found)
            for server in servers.values():
                server.check()
        finally:
            for name in found:
                found[name] |= read(logs[name])


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seams", help="default: all that so many ranks can have")
    parser.add_argument("--profile", default="h200-fp8", choices=["h200-fp8", "demo"])
    parser.add_argument("--tp", type=int, default=1, choices=RANKS, help="ranks")
    parser.add_argument("--devices", nargs=2, help="CUDA_VISIBLE_DEVICES of each: start at once")
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="both start, and are loaded, at the same time, also on one GPU, of much memory",
    )
    parser.add_argument(
        "--in-turn",
        type=Path,
        metavar="FILE",
        help="ask one server after the other, and none of another run with the same file",
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=3 * len(KINDS))
    parser.add_argument("--longest", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--seconds", type=float, default=400, help="for all of it")
    parser.add_argument("flags", nargs="*", help="further flags of SGLang, behind --")
    arguments = parser.parse_args(words)
    if arguments.distinct % len(KINDS):
        parser.error(f"--distinct: a multiple of {len(KINDS)}, so that every kind is known")
    arguments.seams = seams_of(arguments.seams, arguments.tp)
    return arguments


def main() -> int:
    arguments = parsed()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    try:
        soak(arguments, Limit(arguments.seconds), found)
        # On a CPU seams are left to SGLang.
        cpu = arguments.profile == "demo"
        seams = "" if cpu else arguments.seams
        reasons = wrong(found, arguments.requests, cpu, seams, arguments.tp)
    except (ServerFailed, httpx.HTTPError, ValueError) as error:
        reasons = [f"{type(error).__name__}: {error}"]
    of_both = alike(found)
    words = ["python", "-m", "tests.gpu.soak_seams", *without_paths(sys.argv[1:])]
    result: dict[str, Any] = {
        "provenance": provenance.describe([]) | {"command": shlex.join(words)},
        "seams": arguments.seams,
        "ranks": arguments.tp,
        "servers": found,
        "passed": not reasons,
        "why not": reasons,
        "wrong on both alike": of_both,
        "cycles recorded": recorded(found.get("on", {}).get("said", ())),
    }
    write_json(arguments.out / "soak.json", result, indent=1)
    for line in found.get("on", {}).get("said", ()):
        print(line)
    for kind, sizes in result["cycles recorded"].items():
        print(f"recorded cycles, {kind}: of {', '.join(map(str, sizes)) or 'none'} requests")
    if found:
        print(table(found))
    for key, (off, on) in of_both.items():
        print(f"on both servers alike, so none of the seams': {key} (off {off}, on {on})")
    print("\n".join(["FAILED", *reasons]) if reasons else "passed")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
