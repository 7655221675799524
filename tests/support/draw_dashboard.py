"""The dashboard's panels, drawn from what a real Prometheus saw of the demo server.

python -m tests.support.draw_dashboard docs/images/dashboard.png

Layout, titles, legends and queries are those of deploy/grafana/dashboard.json; Grafana itself is
not needed. The demo is asked by a changing number of clients; some of their requests are wrong.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
from tests.support import deployed, prometheus
from tests.support.prometheus import Prometheus, Series
from tests.support.server import Server, free_port, running

QUESTIONS = (
    "Write a Python function to merge two sorted lists.",
    "How do I read a file line by line?",
    "def fibonacci(n):",
    "Write a class for a shopping cart.",
    "Explain what a list comprehension is.",
)
CLIENTS = (1, 4, 8, 2)
"""At once, in the quarters of the time."""
COSTS = "3,4,8 1:60/30 8:200/100"
"""Invented: nobody measured the demo's cycles."""
STEP = 2.0
ROWS = {"row": 0.28, "panel": 1.6}
"""Heights in inches."""


def traffic(server: Server, seconds: float) -> None:
    """Streamed and whole answers, and now and then a request that is refused."""
    begun = time.monotonic()
    for quarter, clients in enumerate(CLIENTS):
        ends = begun + seconds * (quarter + 1) / len(CLIENTS)
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(_client, [server] * clients, range(clients), [ends] * clients))


def _client(server: Server, seed: int, ends: float) -> None:
    chance = random.Random(seed)
    while time.monotonic() < ends:
        url, body = f"{server.url}/v1/chat/completions", _body(chance)
        if body["stream"]:
            with httpx.stream("POST", url, json=body, timeout=300) as reply:
                reply.read()
        else:
            httpx.post(url, json=body, timeout=300)


def _body(chance: random.Random) -> dict[str, Any]:
    wrong = chance.random()
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": chance.choice(QUESTIONS)}],
        "max_tokens": 100_000 if wrong < 0.05 else chance.choice((16, 32, 64)),
        "n": 0 if wrong > 0.95 else 1,
        "temperature": 0,
        "stream": chance.random() < 0.7,
    }


def draw(asked: Prometheus, start: float, end: float, out: Path) -> None:
    from matplotlib import pyplot as plt
    from PIL import Image

    everything = deployed.dashboard()["panels"]
    tops: dict[int, float] = {}
    height = 0.5
    for place in sorted({(p["gridPos"]["y"], p["type"] == "row") for p in everything}):
        tops[place[0]] = height
        height += ROWS["row" if place[1] else "panel"]
    height += 0.1
    figure = plt.figure(figsize=(13, height), facecolor="#f4f5f5")
    figure.text(
        0.01, 1 - 0.2 / height, deployed.dashboard()["title"], size=11, weight="bold", va="center"
    )
    for panel in everything:
        where, top = panel["gridPos"], tops[panel["gridPos"]["y"]]
        if panel["type"] == "row":
            figure.text(
                0.01, 1 - (top + 0.14) / height, panel["title"], size=9, weight="bold", va="center"
            )
            continue
        box = (
            where["x"] / 24 + 0.04,
            1 - (top + ROWS["panel"] - 0.3) / height,
            where["w"] / 24 - 0.05,
            (ROWS["panel"] - 0.62) / height,
        )
        _panel(figure.add_axes(box), panel, asked, start, end)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    with Image.open(out) as drawn:
        # Lines and text need few colours, and the picture is in the repository.
        small = drawn.convert("RGB").quantize(64)
    small.save(out, optimize=True)


def _panel(axes: Any, panel: dict[str, Any], asked: Prometheus, start: float, end: float) -> None:
    axes.set_title(panel["title"], size=8, loc="left", pad=3)
    axes.tick_params(labelsize=6, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawn: list[tuple[str, Series]] = []
    for query in deployed.queries(panel):
        for labels, values in asked.range(query.filled("15s"), start, end, STEP):
            drawn.append((_legend(query.legend, labels), (labels, values)))
    if panel["type"] == "stat":
        axes.axis("off")
        names = panel["fieldConfig"]["defaults"]["mappings"]
        texts = names[0]["options"] if names else {}
        for name, (_, values) in drawn:
            value = f"{values[-1][1]:g}"
            text = f"{name}\n{texts.get(value, {'text': value})['text']}"
            axes.text(0.02, 0.5, text.strip(), size=7, va="center", wrap=True)
        return
    _lines(axes, panel, drawn, start, end)


def _lines(
    axes: Any, panel: dict[str, Any], drawn: Sequence[tuple[str, Series]], start: float, end: float
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        times = [t - start for t, _ in drawn[0][1][1]]
        stacked = [[value for _, value in values] for _, (_, values) in drawn]
        axes.stackplot(times, stacked, labels=[name for name, _ in drawn], alpha=0.7)
    else:
        for name, (_, values) in drawn:
            axes.plot([t - start for t, _ in values], [v for _, v in values], lw=1, label=name)
    axes.set_xlim(0, end - start)
    axes.set_ylim(bottom=defaults["min"], top=defaults.get("max"))
    unit = defaults["unit"].removeprefix("suffix:").strip()
    axes.set_ylabel({"short": "", "reqps": "req/s", "percentunit": "share"}.get(unit, unit), size=6)
    axes.grid(alpha=0.3, lw=0.5)
    axes.legend(
        fontsize=5.5, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False
    )


def _legend(text: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    # The port is another at each run.
    return text.replace(labels.get("instance", "-"), "server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with (
            running(command, port, log, {CYCLE_COSTS: COSTS}) as server,
            prometheus.scraping(server.url, Path(folder) / "prometheus", 2) as asked,
        ):
            time.sleep(5)
            start = time.time()
            worker = threading.Thread(target=traffic, args=(server, arguments.seconds))
            worker.start()
            worker.join()
            draw(asked, start, time.time(), arguments.out)


if __name__ == "__main__":
    main()
