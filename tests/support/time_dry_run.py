"""How long `launch --profile b1 --dry-run` takes, start of Python included: JSON on stdout."""

import json
import platform
import statistics
import subprocess
import sys
import time

RUNS = 20


def main() -> None:
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "b1"]
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([*command, "--dry-run"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    warm = sorted(seconds[1:])
    figures = {"first_s": seconds[0], "median_s": statistics.median(warm), "slowest_s": warm[-1]}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({**rounded, "runs": RUNS, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
