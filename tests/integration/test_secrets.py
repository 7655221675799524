"""A secret that is given to a verb, however it is spelled, is in nothing that the verb writes.

`launch --dry-run --json` is not here: it prints the words for a program to execute.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.provenance import describe
from sglang_qwen3next_eagle3.base.secrets import hide_in_process_list, mask_log
from sglang_qwen3next_eagle3.train.capture import capture
from tests.support import bench_runs, fake_sglang
from tests.support.conversations import record, write_lines
from tests.support.fake_openai import Reply, serving
from tests.support.made_up_capture import MadeUp
from tests.support.small_target import write_data, write_target
from tests.support.train_runs import Made

CANARY = "cAnArY9"
HUB_TOKEN = f"hf_{CANARY}abcdefghij"
FLAGS = [
    ["--api-key", f"{CANARY}-1"],
    [f"--admin-api-key={CANARY}-2"],
    ["--ssl-keyfile-password", f"{CANARY}-3"],
    ["--ssl-keyfile-p", f"{CANARY}-4"],
    ["--admin", f"{CANARY}-5"],
    [f"--api-k={CANARY}-1"],
]
ALL = [word for words in FLAGS for word in words]
# As servers, libraries and people write them.
PRINTED = (
    f"server_args=ServerArgs(api_key='{CANARY}', admin_api_key=\"{CANARY}\", tp_size=1)",
    f'{{"ssl_keyfile_password": "{CANARY}", "port": 1}}',
    f"HF_TOKEN={CANARY} HUGGING_FACE_HUB_TOKEN={CANARY} python -m x --api-key {CANARY}",
    f"Authorization: Bearer {CANARY}",
    f"GET http://me:{CANARY}@host/v1",
    f"a token {HUB_TOKEN} in words",
    f"['--admin-api-key', '{CANARY}', '--ssl-keyfile-pass={CANARY}']",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "SGLANG_TLS_PASSWORD"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    monkeypatch.setenv("SGLANG_MORE_FLAGS", f"--api-key {CANARY} --tp 2")


@pytest.fixture
def behave() -> Iterator[bench_runs.Behave]:
    with bench_runs.fakes() as set_behaviour:
        yield set_behaviour


Told = Callable[[], str]


@pytest.fixture
def told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Told:
    """What was printed, and written under `out`."""

    def collected() -> str:
        printed = capfd.readouterr()
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        content = [f"{path.name}: {path.read_text(errors='replace')}" for path in files]
        return "\n".join([printed.out, printed.err, *content])

    return collected


def assert_no_secret(text: str, *, but: str) -> None:
    """but: what shows that the text is not empty by accident."""
    assert but in text
    found = [line for line in text.splitlines() if CANARY in line]
    assert found == []


def profile_with_secrets(folder: Path) -> Path:
    profile = yaml.safe_load((bench_runs.ROOT / "launch" / "demo.yaml").read_text())
    profile["sglang"] |= {"api-key": f"{CANARY}-6", "ssl-keyfile-password": f"{CANARY}-7"}
    profile["environment"] |= {"HF_TOKEN": f"{CANARY}-8"}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def test_bench(behave: bench_runs.Behave, tmp_path: Path, told: Told) -> None:
    said = "\n".join(PRINTED)
    behave(none={"say": said}, mine={"say": said})
    words = bench_runs.words(tmp_path / "out" / "own", "--config", "none", "--", *ALL)
    assert main(words) == 0
    mine = ["--config", str(profile_with_secrets(tmp_path))]
    assert main(bench_runs.words(tmp_path / "out" / "mine", *mine)) == 0
    assert_no_secret(told(), but="--ssl-keyfile-p")


def test_bench_with_a_server_that_fails(
    behave: bench_runs.Behave, tmp_path: Path, told: Told
) -> None:
    behave(none={"refuse": "\n".join(PRINTED)})
    assert main(bench_runs.words(tmp_path / "out", "--config", "none", "--", *ALL)) == 1
    assert_no_secret(told(), but="in words")


def test_bench_of_a_server_of_others(
    behave: bench_runs.Behave, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_API_KEY", f"{CANARY}-9")
    with fake_sglang.serving() as fake:
        url = fake.url.replace("http://", f"http://me:{CANARY}-10@")
        words = ["--base-url", url, "--name", "a", f"--api-key={CANARY}-11"]
        assert main(bench_runs.words(tmp_path / "out", *words)) == 0
    assert main(bench_runs.words(tmp_path / "out" / "b", *words)) == 2
    assert_no_secret(told(), but="no server answers")


def test_demo(
    monkeypatch: pytest.MonkeyPatch, behave: bench_runs.Behave, told: Told, demo_port: None
) -> None:
    for refuse in ("", "\n".join(PRINTED)):
        behave(demo={"key": f"{CANARY}-1", "say": "\n".join(PRINTED), "refuse": refuse})
        assert main(["demo", "--", *ALL]) == (2 if refuse else 0)
    assert_no_secret(told(), but="Authorization: Bearer KEY")


def test_launch(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.execvpe", lambda *_: None)
    monkeypatch.setattr("sglang_qwen3next_eagle3.serving.preflight.prepare", plan)
    for words in (["--profile", "demo", "--", *ALL], ["--profile", f"{tmp_path}/mine.yaml"]):
        profile_with_secrets(tmp_path)
        assert launch.main([*words[:2], "--dry-run", *words[2:]]) == 0
        launch.main(words)
    text = told()
    assert_no_secret(text, but='--api-key "${SGLANG_API_KEY:?}"')
    assert 'HF_TOKEN="${HF_TOKEN:?}"' in text
    assert '--ssl-keyfile-p "${SSL_KEYFILE_P:?}"' in text


def plan(*given: object) -> object:
    from sglang_qwen3next_eagle3.serving.preflight import plan as planned

    return planned(*given)  # type: ignore[arg-type]


@pytest.mark.parametrize("fails", [False, True])
def test_capture(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def backend(_options: object, _folder: Path, _selection: object, log: Path) -> MadeUp:
        log.write_text("\n".join(PRINTED))
        return MadeUp(0 if fails else None, UserError("the server is gone"))

    monkeypatch.setattr(capture, "_backend", backend)
    target, data = write_target(tmp_path / "target"), write_data(tmp_path / "data.jsonl", 5)
    out = tmp_path / "out" / "features"
    words = ["train", "capture", "--data", str(data), "--target", str(target), "--out", str(out)]
    assert main([*words, "--device", "cpu", "--", *ALL]) == (2 if fails else 0)
    assert_no_secret(told(), but="in words" if fails else '"--admin-api-key=***"')


def test_prepare(tmp_path: Path, told: Told) -> None:
    source = write_lines(tmp_path / "a.jsonl", [record(f"question {i}") for i in range(5)])
    words = ["train", "prepare", "--source", str(source), "--out", str(tmp_path / "out" / "data")]
    words += ["--regenerate", "--retries", "0", f"--api-key={CANARY}-1", "--base-url"]
    with serving(lambda _: Reply("an answer of some length")) as served:
        url = served.url.replace("http://", f"http://me:{CANARY}-2@")
        assert main([*words, url]) == 0
    words[words.index("--out") + 1] = str(tmp_path / "out" / "again")
    assert main([*words, url]) == 2
    assert_no_secret(told(), but="no server answers")


def test_train(tmp_path: Path, told: Told) -> None:
    pytest.importorskip("specforge")
    made = Made(tmp_path)
    made.out = tmp_path / "out" / "run"
    words = ["--features", str(made.features()), *made.trainable()]
    assert made.run(*words, "--set", f"tracking.wandb_key={CANARY}") == 2
    assert_no_secret(told(), but="tracking.wandb_key: it would be written into the run's folder")


def test_what_something_was_made_with() -> None:
    text = json.dumps(describe(["launch", "--", *ALL, f"--tokenizer={HUB_TOKEN}"]))
    assert_no_secret(text, but="SGLANG_MORE_FLAGS")


def test_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(PRINTED))
    mask_log(log)
    assert_no_secret(log.read_text(), but="in words")
    assert "tp_size=1" in log.read_text()
    mask_log(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("module", ["hide", "main", "launcher", "plugin"])
def test_the_list_of_processes(module: str) -> None:
    """From early in each of our processes on; sys.argv keeps what the program needs."""
    calls = {
        "hide": f"from {hide_in_process_list.__module__} import hide_in_process_list as run",
        "main": "from sglang_qwen3next_eagle3.__main__ import main as run",
        "launcher": "from sglang_qwen3next_eagle3.launch import main as run",
        "plugin": "from sglang_qwen3next_eagle3 import plugin as p; p._hook_fast = print; "
        "p._hook_capture = print; run = p.register",
    }
    code = (
        f"import sys; {calls[module]}\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print('has', len(sys.argv), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "--port", "1", *ALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as started:
        assert started.stdout is not None
        printed = next(line for line in started.stdout if line.startswith("has "))
        shown = Path(f"/proc/{started.pid}/cmdline").read_text().split("\0")[3:-1]
        started.communicate("")
    assert printed == f"has {3 + len(ALL)}\n"
    assert CANARY not in " ".join(shown)
    assert shown[:4] == ["--port", "1", "--api-key", "*" * len(f"{CANARY}-1")]
    assert shown[4] == f"--admin-api-key={'*' * len(f'{CANARY}-2')}"
    assert len(shown) == 2 + len(ALL)
