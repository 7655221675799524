"""What a proof of the fast path and the seams asks for, in one command, on one or more GPUs alike.

    python -m tests.gpu.prove OUT --data-dir FOLDER-WITH-HUMANEVAL [--gpus 0,1] [--seconds 1200]
    python -m tests.gpu.prove OUT --data-dir FOLDER-WITH-HUMANEVAL --tp 2 --gpus 0,1

Runs check_text, soak_seams, check_kernels (alone, under compute-sanitizer and beside SGLang's
router), check_recorded_cycles and four layers of the published widths, as many beside each other as
the GPUs have room for, each with a limit of its own. OUT gets the files that a line of
`overlay/fast/proved.py` or `overlay/seams/proved.py` names: said.txt, text-fast.json,
check-kernels.json, check-router.json, sanitizer.txt, recorded.txt, soak.json, layers.json, and
proof.json, which says of which code they are. Begun again it goes on with what has not passed; a
folder with files of other code or ranks, or of code that nobody knows, is left as it is. A table is
printed last, with what is missing. Exit code 0: the proof is whole; 1: it is not; 2: it was not
begun.

With --tp it makes what several ranks ask for beside a proof of the same code on one GPU: text and
mixed load of servers of so many ranks, which share their GPUs and are asked in turn, without
FlashInfer's fused sums. Recorded cycles, on one of the GPUs, come last where time is left, and the
proof is whole without.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import write_json
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.overlay.environment import DEFER, FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.fast.stages import RANKS
from sglang_qwen3next_eagle3.overlay.proofs import NO_FUSION
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams

PROMPTS, REPLAYS, ROUTER_ROWS = 164, 10_000, 1_000_000
TREES: Final = ("3,1,4", "3,4,8", "5,1,6", "auto")
OF_RANKS: Final = {FAST: "on,head", SEAMS: "on"}
"""Of several ranks."""
SWITCHED: Final = {**OF_RANKS, SEAMS: "on,sampled"}
"""Of one: what may be on with it is in the proof, whether or not it is by default."""
DEFERRED: Final = "defer"
"""Of one, beside a server whose head's cache is filled in every cycle: one where extends are put
off, which neither the text nor, beyond LENGTHS, the accept length may show."""
LENGTHS: Final = 0.02
AT_ONCE: Final = "cycles of 0 steps at once"
"""How its log says that they are (overlay/adaptive/deferral.py)."""
SANITIZER: Final = "/usr/local/cuda/bin/compute-sanitizer"
ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Part:
    """command: words behind `python`. file: where it is told. share: of a GPU; who measures times
    has one alone. seconds: its limit. missing: what of its file is not as a proof asks for. spare:
    the proof is whole without it."""

    name: str
    command: tuple[str, ...]
    file: str
    share: float
    seconds: float
    missing: Callable[[Path], str | None]
    before: tuple[str, ...] = ()
    spare: bool = False


def parts(out: Path, data: Path, sanitizer: str) -> list[Part]:
    switches = [word for pair in SWITCHED.items() for word in ("--set", "=".join(pair))]
    deferred = f"{DEFERRED}=auto:{DEFER}=32"
    servers = [word for name in ("none", *TREES, deferred) for word in ("--server", name)]
    of_text = "tests/gpu/check_text.py", str(out / "text-fast.json"), "--parallel", "3"
    of_layers = "tests/gpu/check_text.py", str(out / "layers.json"), "--layers", "4"
    asked = "--prompts", str(PROMPTS), "--data-dir", str(data), "--repeats", "1"
    kernels = "tests/gpu/check_kernels.py", "--what"
    return [
        Part(
            "text",
            (*of_text, *asked, "--tokens", "128", "--batch", "1,8", "--seconds", "560",
             "--logs", str(out / "logs"), *switches, *servers),
            "text-fast.json", 0.5, 580, text_missing,
        ),
        Part(
            "soak", ("-m", "tests.gpu.soak_seams", "--out", str(out), "--at-once"),
            "soak.json", 0.5, 420, soak_missing,
        ),
        Part(
            "kernels",
            (*kernels, "replays,numerics", "--seconds", "220",
             "--json", str(out / "check-kernels.json")),
            "check-kernels.json", 1, 250, kernels_missing,
        ),
        Part(
            "recorded", ("-m", "tests.gpu.check_recorded_cycles"),
            "recorded.txt", 1, 150, recorded_missing,
        ),
        Part(
            "layers",
            (*of_layers, "--prompts", "64", "--data-dir", str(data), "--repeats", "1",
             "--tokens", "96", "--batch", "1", "--seconds", "220", *switches,
             "--server", "none", "--server", "3,1,4"),
            "layers.json", 0.5, 240, layers_missing,
        ),
        Part(
            "sanitizer", (*kernels, "small", "--seconds", "240"),
            "sanitizer.txt", 0.25, 260, sanitizer_missing, (sanitizer, "--tool", "memcheck"),
        ),
        Part(
            "router", (*kernels, "router", "--json", str(out / "check-router.json")),
            "check-router.json", 0.25, 120, router_missing,
        ),
    ]  # fmt: skip


def parts_of_ranks(out: Path, data: Path, ranks: int, alone: bool = False) -> list[Part]:
    """alone: there are GPUs enough for each part to have some of its own."""
    switches = [word for pair in OF_RANKS.items() for word in ("--set", "=".join(pair))]
    servers = [word for name in ("none", *TREES) for word in ("--server", name)]
    of_ranks = "--tp", str(ranks), "--in-turn", *(() if alone else (str(out / "turn"),))
    share = 1 if alone else 0.5
    return [
        Part(
            "text",
            ("tests/gpu/check_text.py", str(out / "text-fast.json"), *of_ranks,
             "--parallel", "3", "--prompts", str(PROMPTS), "--data-dir", str(data),
             "--repeats", "1", "--tokens", "128", "--batch", "1,8", "--seconds", "400",
             "--logs", str(out / "logs"), *switches, *servers, "--", NO_FUSION),
            "text-fast.json", share, 410, lambda path: text_missing(path, ranks),
        ),
        Part(
            "soak",
            ("-m", "tests.gpu.soak_seams", "--out", str(out), "--at-once", "--tp", str(ranks),
             "--in-turn", str(out / ("turn-soak" if alone else "turn")), "--seconds", "400",
             "--", NO_FUSION),
            "soak.json", share, 410, lambda path: soak_missing(path, ranks),
        ),
        Part(
            "recorded", ("-m", "tests.gpu.check_recorded_cycles"),
            "recorded.txt", 1, 60, recorded_missing, spare=True,
        ),
    ]  # fmt: skip


def text_missing(path: Path, ranks: int = 1) -> str | None:
    told = _read(path)
    found = [one for one in told["compared"] if one.get("ranks", 1) == ranks]
    alone = {one["server"]: one for one in found if one["at_once"] == 1}
    equal = {name: one["equal"] for name, one in alone.items()}
    names = (*TREES, *((DEFERRED,) if ranks == 1 else ()))
    short = [f"{name} {equal.get(name, 0)}" for name in names if equal.get(name) != PROMPTS]
    if short:
        return f"equal to no speculation of {PROMPTS}: {', '.join(short)}"
    return None if ranks > 1 else _deferred_missing(told, alone)


def _deferred_missing(told: Any, alone: Mapping[str, Any]) -> str | None:
    """Whether extends were put off in that server alone, and its drafts accepted as auto's are."""
    said = {one["name"]: "\n".join(one["said"]) for one in told["servers"]}
    if AT_ONCE not in said[DEFERRED]:
        return f"{DEFERRED}: no extend is put off"
    if AT_ONCE in said["auto"]:
        return "auto: extends are put off"
    with_it, without = (alone[name]["accept_length"] for name in (DEFERRED, "auto"))
    if not with_it or not without or abs(with_it - without) > LENGTHS + 1e-9:
        return f"accept length {with_it} with extends that are put off, {without} without"
    return None


def layers_missing(path: Path) -> str | None:
    found = [one for one in _read(path)["compared"] if one["server"] != "none"]
    short = [one for one in found if one["equal"] != one["prompts"]]
    if found and not short:
        return None
    return f"equal: {[one['equal'] for one in short]}" if found else "nobody answered"


def soak_missing(path: Path, ranks: int = 1) -> str | None:
    found = _read(path)
    if (told := found.get("ranks", 1)) != ranks:
        return f"of {told} ranks, not {ranks}"
    return None if found["passed"] else "; ".join(found["why not"])


def kernels_missing(path: Path) -> str | None:
    found = _read(path)
    runs = found.get("replays", [])
    short = [
        f"{run['requests']}x{run['nodes']} {run['replays']}"
        for run in runs
        if run["replays"] < REPLAYS
    ]
    if short:
        return f"of {REPLAYS} replays: {', '.join(short)}"
    if len(runs) < found["shapes"]:
        return f"replays of {found['shapes'] - len(runs)} of {found['shapes']} shapes"
    rows = found.get("numerics", {})
    return None if len(rows) == 3 else f"numerics of {', '.join(rows) or 'any rows'} only"


def recorded_missing(path: Path) -> str | None:
    return None if "turns equal" in path.read_text("utf-8") else "no turn is told"


def sanitizer_missing(path: Path) -> str | None:
    text = path.read_text("utf-8")
    clean = "small: ran True" in text and "ERROR SUMMARY: 0 errors" in text
    return None if clean else "it did not run to its end without errors"


def router_missing(path: Path) -> str | None:
    found = _read(path)["router"]
    beside = "torch.sort" not in found["beside"]
    if found["rows"] < ROUTER_ROWS or not beside:
        return f"{found['rows']} rows beside {found['beside']}"
    return None


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


class Running:
    """A part that runs on one GPU, or on several as CUDA_VISIBLE_DEVICES names them, with what it
    prints in a file."""

    def __init__(self, part: Part, gpu: str, out: Path, seconds: float) -> None:
        self.part, self.gpu, self.began = part, gpu, time.monotonic()
        self._until = self.began + min(part.seconds, seconds)
        told = out / (part.file if part.file.endswith(".txt") else f"{part.name}.txt")
        switched = OF_RANKS if "," in gpu else SWITCHED
        with told.open("wb") as log:
            self._process = subprocess.Popen(
                [*part.before, sys.executable, *part.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **switched, "CUDA_VISIBLE_DEVICES": gpu},
                start_new_session=True,
                cwd=ROOT,
            )

    def ended(self) -> str | None:
        """Why it has, or did not pass; None while it runs."""
        code = self._process.poll()
        if code is None and time.monotonic() < self._until:
            return None
        if code is None:
            self.stop()
            return f"not ended after {time.monotonic() - self.began:.0f} s"
        return f"exit status {code}" if code else "passed"

    def stop(self) -> None:
        for name, seconds in ((signal.SIGINT, 10), (signal.SIGKILL, 5)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, name)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                return


def run(
    todo: Sequence[Part],
    gpus: Sequence[str],
    out: Path,
    seconds: float,
    passed: Callable[[Part, str, float], None],
) -> None:
    """All of it, in this order where there is room; a part that would not get half of its time is
    left out. passed: told of every part what became of it, and after how many seconds."""
    until, waiting, running = time.monotonic() + seconds, list(todo), list[Running]()
    try:
        while waiting or running:
            for one in list(running):
                if (end := one.ended()) is not None:
                    running.remove(one)
                    passed(one.part, end, time.monotonic() - one.began)
            left = until - time.monotonic()
            for part in list(waiting):
                if left < part.seconds / 2:
                    waiting.remove(part)
                    passed(part, f"left out: {max(0.0, left):.0f} s left", 0.0)
                elif gpu := _room(part, gpus, running):
                    waiting.remove(part)
                    print(f"{part.name}: on GPU {gpu}", flush=True)
                    running.append(Running(part, gpu, out, left - 5))
            time.sleep(0.2)
    finally:
        for one in running:
            one.stop()


def _room(part: Part, gpus: Sequence[str], running: Sequence[Running]) -> str | None:
    taken = {gpu: sum(one.part.share for one in running if one.gpu == gpu) for gpu in gpus}
    # What needs little fills what is begun; what needs all of one waits for an empty one.
    fitting = [gpu for gpu in gpus if taken[gpu] + part.share <= 1]
    return max(fitting, key=lambda gpu: taken[gpu], default=None)


def said(logs: Path) -> str:
    """What servers said of the fast path and the seams: a block for each log."""
    blocks = []
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text("utf-8", errors="replace").splitlines()
        told = [
            line.replace("sglang-qwen3next-eagle3: ", "")
            for line in lines
            if any(word in line for word in ("fast path", "seams on", "extends of the head"))
        ]
        blocks.append("\n".join([f"== {log.stem}", *told]))
    return "\n".join(blocks) + "\n" if blocks else ""


def missing(part: Part, out: Path) -> str | None:
    """What of a part a proof still asks for, by its file."""
    if not (out / part.file).is_file():
        return "its file"
    try:
        return part.missing(out / part.file)
    except (ValueError, KeyError, OSError) as error:
        return f"{part.file} cannot be read: {type(error).__name__}: {error}"


def codes() -> dict[str, str]:
    return {"fast": of_fast.code().told, "seams": of_seams.code().told}


def prove(
    todo: Sequence[Part], gpus: Sequence[str], out: Path, seconds: float, ranks: int = 1
) -> Mapping[str, Any]:
    """Runs what has not passed with this code, and says of all of it what is missing.

    gpus: one, or as many as a server has ranks, in each word.

    Raises:
        UserError: the folder holds what is of other code or other ranks.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "proof.json"
    result: dict[str, Any] = {"code": codes(), "ranks": ranks, "parts": _kept(todo, path, ranks)}
    write_json(path, result, indent=1)

    def passed(part: Part, end: str, took: float) -> None:
        lacks = missing(part, out)
        became = end if end != "passed" or lacks is None else lacks
        if end != "passed" and lacks and lacks != "its file":
            became = f"{end}; {lacks}"
        result["parts"][part.name] = {"became": became, "seconds": round(took, 1)}
        print(f"{part.name}: {became}, {took:.0f} s", flush=True)
        write_json(path, result, indent=1)

    done = {name for name, one in result["parts"].items() if one["became"] == "passed"}
    left = [part for part in todo if part.name not in done or missing(part, out)]
    run(left, gpus, out, seconds, passed)
    if blocks := said(out / "logs"):
        (out / "said.txt").write_text(blocks, "utf-8")
    result["whole"] = all(
        part.spare or result["parts"][part.name]["became"] == "passed" for part in todo
    )
    write_json(path, result, indent=1)
    return result


def _kept(todo: Sequence[Part], path: Path, ranks: int) -> dict[str, Any]:
    """What became of the parts before, with this code. Raises UserError as `prove` does."""
    try:
        kept = _read(path) if path.is_file() else {}
        code, before = kept.get("code"), dict(kept.get("parts", {}))
        of_ranks = kept.get("ranks", 1)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no proof.json: {error}; name another folder") from None
    if code == codes() and of_ranks != ranks and before:
        raise UserError(
            f"{path.parent} holds a proof of {of_ranks} ranks, not of {ranks}: name another folder"
        )
    if code == codes():
        return before
    if there := sorted(part.file for part in todo if (path.parent / part.file).exists()):
        told = f"the code {code}" if code else "code that is not told"
        here = f"not of {codes()}, which is installed"
        raise UserError(
            f"{path.parent} holds {', '.join(there)} of {told}, {here}: name another folder"
        )
    return {}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True, help="with HumanEval.jsonl.gz")
    parser.add_argument("--tp", type=int, default=1, choices=RANKS, help="ranks of a server")
    parser.add_argument("--gpus", help="joined by commas (default: as many as a server has ranks)")
    parser.add_argument("--seconds", type=float, default=1500, help="for all of it")
    arguments = parser.parse_args()
    if not (arguments.data_dir / "HumanEval.jsonl.gz").is_file():
        parser.error(f"--data-dir: {arguments.data_dir} has no HumanEval.jsonl.gz")
    ranks = arguments.tp
    gpus = arguments.gpus.split(",") if arguments.gpus else [str(n) for n in range(ranks)]
    if len(gpus) % ranks:
        parser.error(f"--gpus {','.join(gpus)}: a server of --tp {ranks} takes {ranks} of them")
    groups = [",".join(gpus[n : n + ranks]) for n in range(0, len(gpus), ranks)]
    sanitizer = shutil.which("compute-sanitizer") or SANITIZER
    if ranks == 1 and not Path(sanitizer).is_file():
        parser.error("compute-sanitizer is not here: it comes with the CUDA toolkit")
    out, data = arguments.out.resolve(), arguments.data_dir.resolve()
    todo = parts(out, data, sanitizer)
    if ranks > 1:
        todo = parts_of_ranks(out, data, ranks, alone=len(groups) > 1)
    try:
        found = prove(todo, groups, out, arguments.seconds, ranks)
    except UserError as error:
        parser.error(str(error))
    rows = [[name, one["became"], str(one["seconds"])] for name, one in found["parts"].items()]
    print(markdown.table(["part", "", "s"], rows))
    told = ", ".join(f"{switch} {code}" for switch, code in found["code"].items())
    of_ranks = f" of TP {ranks}" if ranks > 1 else ""
    print(f"{'a whole proof' if found['whole'] else 'NOT WHOLE'}{of_ranks}, of the code {told}")
    return 0 if found["whole"] else 1


if __name__ == "__main__":
    sys.exit(main())
