"""A command line is read as SGLang's own parser, argparse, reads it; and refusals hold in it."""

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.overlay import environment
from sglang_qwen3next_eagle3.serving import command_line, flags, refusals
from tests.support import sglang_parser
from tests.support.checkpoints import FP8, SMALL_HEAD, write_config, write_head, write_target
from tests.support.launching import error_of
from tests.support.server import free_port

PARSER = sglang_parser.parser()
NAMES = sorted(name for name in flags.table() if name.startswith("--"))


def shortest(name: str) -> str:
    """The least that argparse takes for a flag."""
    own = flags.table()[name]
    for length in range(4, len(name)):
        begins = [other for other in NAMES if other.startswith(name[:length])]
        if all(flags.table()[other] == own for other in begins) and len(begins) == 1:
            return name[:length]
    return name


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    words: list[str] = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=6)):
        if name == "--config":
            continue
        flag = flags.table()[name]
        least = len(shortest(name))
        spelled = name[: draw(st.integers(least, len(name)))]
        # A beginning that is a name of its own is that flag.
        spelled = name if spelled in flags.table() and spelled != name else spelled
        values = draw(st.lists(st.text("ab1.:/", min_size=1), min_size=1, max_size=3))
        if flag.values == "0":
            words.append(spelled)
        elif flag.values == "1" and draw(st.booleans()):
            words.append(f"{spelled}={values[0]}")
        else:
            words += [spelled, *(values[:1] if flag.values in "1?" else values)]
    return words


@settings(deadline=None, max_examples=60)
@given(command_lines())
def test_a_command_line_is_read_as_argparse_reads_it(words: list[str]) -> None:
    meant = vars(PARSER.parse_args(words))
    parsed = flags.parse(words)
    for flag in sglang_parser.all_flags():
        value = meant[flag.dest]
        found = parsed.value(flag.names[0])
        if flag.values == "0":
            assert (found is not None) == bool(value)
        else:
            assert found == (value[0] if isinstance(value, list) else value)


def test_the_flags_of_sglang_that_we_name_are_in_the_table() -> None:
    for name in ("--host", "--port", "--tp", "--api-key", "--served-model-name", "--quantization"):
        assert flags.find(name) is not None
    assert flags.find("--tp") == flags.find("--tensor-parallel-size")
    assert flags.find("--s") is None, "it could be many"
    assert flags.find("--no-such-flag") is None


def test_a_flag_that_sglang_does_not_know_is_kept_as_it_is() -> None:
    parsed = flags.parse(["--no-such-flag", "1", "--no-such-flag", "2", "--port", "3"])
    assert parsed.value("--no-such-flag") == "2"
    assert parsed.value("--port") == "3"


def test_a_config_file_stands_before_all_else(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    text = "port: 1\nhost: 10.1.2.3\nenable-metrics: true\nskip-server-warmup: false\n"
    file.write_text(text + "bucket-time-to-first-token: [1, 2]\n")
    parsed = flags.parse(["--port", "2", "--config", str(file), "--tp", "4"])
    assert parsed.value("--port") == "2"
    assert parsed.value("--host") == "10.1.2.3"
    assert parsed.value("--enable-metrics") == ""
    assert parsed.value("--skip-server-warmup") is None
    assert parsed.of("--bucket-time-to-first-token")[0].values == ("1", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=x.yaml"], "SGLang reads one file of flags, spelled `--config FILE`"),
        (["--config", "a.yaml", "--config", "b.yaml"], "SGLang reads one file of flags"),
        (["--config"], "SGLang reads one file of flags"),
        (["--config", "gone.yaml"], "--config gone.yaml: there is no such .yaml file"),
    ],
)
def test_a_config_file_that_sglang_would_not_read_is_refused(
    words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        flags.parse(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora-paths: [a]", "SGLang takes no lora-paths from a file"),
        ("dllm-fdfo: false", "SGLang takes no dllm-fdfo from a file"),
        (
            "disable-radix: true",
            "of a switch by its whole name: give it as a flag, --disable-radix-",
        ),
        (
            "disable-radix: false",
            "of a switch by its whole name: give it as a flag, --disable-radi",
        ),
        ("no-such-flag: false", "SGLang has no flag --no-such-flag"),
        ("enable_metrics: true", "SGLang has no flag --enable_metrics: --enable-metrics?"),
    ],
)
def test_a_config_file_at_which_sglang_would_end_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    words = ["--profile", "b1", "--dry-run", "--", "--config", str(file)]
    assert message in error_of(capsys, *words)


def test_a_list_at_the_end_of_a_config_file_takes_no_word_of_the_program(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("enable_metrics: false\nbucket-time-to-first-token: [1, 2]\n")
    words = ["--profile", "b1", "--dry-run", "--", "--config", str(file)]
    assert launch.main(words) == 0


def spellings(name: str, value: str, tmp_path: Path) -> dict[str, list[str]]:
    """Every way in which SGLang takes a flag and its value."""
    file = tmp_path / "flags.yaml"
    file.write_text(f"{name.removeprefix('--')}: {value}\n")
    flag = flags.table()[name]
    names = {f"as {other}": [other, value] for other in flag.names}
    short = shortest(flag.names[-1])
    return {
        **names,
        "joined": [f"{name}={value}"],
        "abbreviated": [short, value],
        "abbreviated and joined": [f"{short}={value}"],
        "given twice": [name, "x", name, value],
        "in a file": ["--config", str(file)],
    }


REFUSED = {
    "host": ("--host", "0.0.0.0", "listening on 0.0.0.0 lets everybody"),
    "attention": ("--attention-backend", "flashinfer", "attention backend flashinfer: the model"),
    "prefill": ("--prefill-attention-backend", "fa3", "of the prefill fa3: the model card names"),
    "decode": ("--decode-attention-backend", "fa3", "of decoding fa3: the model card names"),
    "target": ("--model-path", "other/target", "would be served without being looked at: use --ta"),
    "head": ("--speculative-draft-model-path", "other/head", "looked at: use --head"),
    "revision": ("--revision", "abc", "looked at: use --revision before the --"),
    "head revision": ("--speculative-draft-model-revision", "a", "use --head-revision"),
    "algorithm": ("--speculative-algorithm", "NEXTN", "NEXTN after -- contradicts algorithm eagle"),
    "eagle": ("--speculative-algorithm", "EAGLE", "EAGLE after -- contradicts algorithm eagle3"),
    "tree": ("--speculative-num-draft-tokens", "64", "hold 37 draft tokens, 64 are asked for"),
    "port": ("--port", "99999", "port '99999': a number from 1 to 65535"),
    "ranks": ("--tp-size", "0", "TP '0': a whole number of ranks from 1"),
}
OF_THE_PROFILE = {"attention": "in a file", "tree": "in a file", "port": "in a file"}
OF_THE_PROFILE |= {"ranks": "in a file", "algorithm": "in a file", "eagle": "in a file"}
"""What a profile says itself wins over SGLang's file of flags, which it reads first."""


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_holds_in_every_spelling(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, value, message = REFUSED[what]
    for how, words in spellings(name, value, tmp_path).items():
        if how == OF_THE_PROFILE.get(what) and "contradicts" not in message:
            assert launch.main(["--profile", "b1", "--dry-run", "--", *words]) == 0
            capsys.readouterr()
            continue
        error = error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)
        assert message in error, how


def test_the_same_algorithm_and_a_tree_that_is_one_may_be_said_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = ["--speculative-num-steps", "5", "--speculative-eagle-topk", "1"]
    words = ["--speculative-algorithm", "eagle3", *tree, "--speculative-num-draft-tokens=6"]
    assert launch.main(["--profile", "b1", "--dry-run", "--", *words]) == 0


@pytest.mark.parametrize(
    "words", [["--tp", "2"], ["--", "--dp-size", "2"], ["--", "--pipeline-par=2"]]
)
def test_the_cpu_engine_serves_with_one_process(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    error = error_of(capsys, "--profile", "demo", "--dry-run", *words)
    assert "the CPU engine serves with one process" in error


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("model-pa", "use target"),
        ("speculative-alg", "use algorithm"),
        ("speculative-draft-model", "use head"),
        ("config", "use the keys of the profile"),
    ],
)
def test_a_profile_says_nothing_twice_in_other_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, message: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{description: d, hardware: h, target: a/b, head: c/d, "
        f"sglang: {{attention-backend: triton, {flag}: x}}}}"
    )
    assert message in error_of(capsys, "--profile", str(file), "--dry-run")


@pytest.mark.parametrize(
    "words",
    [
        ["--log-level", "info", "WORD"],
        ["--log-level=info", "WORD"],
        ["--enable-metrics", "WORD", "--log-level", "info"],
    ],
)
def test_a_word_that_no_flag_takes_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    for dry in ([], ["--dry-run"]):
        error = error_of(capsys, "--profile", "b1", "--tp", "2", *dry, "--", *words)
        assert "'WORD' after -- belongs to no flag" in error


@pytest.mark.parametrize("value", ["'yes please'", "1", "''", "[1, 2]"])
def test_so_it_is_in_a_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, value: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "description: x\nhardware: any\ntarget: Qwen/Qwen3-Coder-Next\nalgorithm: none\n"
        f"sglang: {{attention-backend: triton, tp: 4, disable-cuda-graph: {value}}}\n"
    )
    error = error_of(capsys, "--profile", str(file), "--dry-run")
    assert "in the profile's sglang belongs to no flag: a switch takes true or false" in error


@pytest.mark.parametrize("by", ["the caller", "the profile"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LIMIT", ": SGLANG_QWEN3NEXT_EAGLE3_LIMITS?"),
        ("APIKEY", ": SGLANG_QWEN3NEXT_EAGLE3_API_KEY?"),
        ("ZZZZZZZZZZZZZZZZZZZZ", "; there are SGLANG_QWEN3NEXT_EAGLE3_ADAPTIVE, "),
    ],
)
def test_a_variable_of_ours_that_nothing_reads_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    by: str,
    name: str,
    meant: str,
) -> None:
    name = f"SGLANG_QWEN3NEXT_EAGLE3_{name}"
    profile = "b1"
    if by == "the caller":
        monkeypatch.setenv(name, "x")
    else:
        own = yaml.safe_load((data_dir("launch") / "b1.yaml").read_text())
        own["environment"] = {name: "x"}
        profile = str(tmp_path / "mine.yaml")
        Path(profile).write_text(yaml.safe_dump(own))
    error = error_of(capsys, "--profile", profile, "--dry-run")
    assert f"nothing reads the variable {name}{meant}" in error


@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_30000_TCP",
        "PORT_30000_TCP_PROTO", "ROUTER_SERVICE_HOST", "ROUTER_PORT_8000_TCP_ADDR",
    ],
)  # fmt: skip
def test_a_service_of_a_cluster_may_be_named_as_we_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SGLANG_QWEN3NEXT_EAGLE3_{name}", "tcp://10.0.0.1:30000")
    assert launch.main(["--profile", "b1", "--dry-run"]) == 0
    assert not environment.OF_A_SERVICE.search("SGLANG_QWEN3NEXT_EAGLE3_REPORT")
    assert not any(environment.OF_A_SERVICE.search(name) for name in environment.NAMES)


def test_words_that_a_flag_takes_are_none_of_them() -> None:
    taken = ["--cuda-graph-bs", "1", "2", "--no-such-flag", "a", "b", "--log-level", "info"]
    assert flags.parse(taken).stray == ()


@pytest.mark.parametrize("words", [["--host="], ["--host", ""]])
def test_an_empty_host_is_every_address(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    error = error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)
    assert "listening on every address lets everybody" in error


@pytest.mark.usefixtures("installed")
def test_a_secret_of_a_profile_is_not_logged(
    executed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    data = yaml.safe_load((data_dir("launch") / "demo.yaml").read_text())
    data["sglang"] |= {"port": free_port(), "admin-api-key": "S3CRET-1"}
    data["environment"] |= {"HF_TOKEN": "S3CRET-2"}
    file.write_text(yaml.safe_dump(data))
    launch.main(["--profile", str(file), "--", "--ssl-keyfile-pass", "S3CRET-3"])
    assert "S3CRET" not in capsys.readouterr().err
    assert "S3CRET-1" in executed["argv"]
    assert executed["environment"]["HF_TOKEN"] == "S3CRET-2"


@pytest.mark.parametrize(
    "words",
    [
        ["--enable-metrics", "--quantization", "fp8"],
        ["--quantization", "fp8", "--enable-metrics"],
        ["--quantization=fp8", "--enable-metrics", "--log-level", "debug"],
    ],
)
def test_what_is_added_stands_between_no_flag_and_its_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    data = yaml.safe_load((data_dir("launch") / "b1.yaml").read_text())
    data |= {"target": "demo", "head": "demo", "sglang": {**data["sglang"], "tp": 1}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    argv = ["--profile", str(tmp_path / "mine.yaml"), "--dry-run", "--json", "--", *words]
    assert launch.main(argv) == 0
    meant = PARSER.parse_args(json.loads(capsys.readouterr().out)["argv"][3:])
    assert meant.served_model_name == "demo"
    assert meant.quantization == "fp8"
    assert meant.speculative_draft_model_quantization == "unquant"
    assert meant.enable_metrics
    assert meant.log_level == ("debug" if "debug" in words else None)


@pytest.mark.parametrize("words", [["--quantization", "fp8"], ["--quantization=w8a8_fp8"]])
def test_the_cpu_engine_refuses_quantization(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    error = error_of(capsys, "--profile", "demo", "--dry-run", "--", *words)
    assert "needs a GPU: the CPU engine serves in float32" in error


def test_so_it_does_a_target_s_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = json.loads((demo_pair().target / "config.json").read_text())
    target = write_target(tmp_path / "fp8", {**config, "quantization_config": FP8})
    words = ["--profile", "demo", "--target", str(target), "--no-speculation", "--dry-run"]
    assert "weights are quantized (fp8), which needs a GPU" in error_of(capsys, *words)
    words[words.index("demo")] = "h200-fp8"
    assert "FP8 block of 128: no --tp fits" in error_of(capsys, *words)


@pytest.mark.usefixtures("installed")
def test_a_name_of_one_s_own_is_the_served_one(executed: dict[str, Any]) -> None:
    argv = ["--profile", "demo", "--port", str(free_port())]
    launch.main([*argv, "--", "--served-model-name", "mine"])
    assert executed["argv"].count("--served-model-name") == 1
    assert PARSER.parse_args(executed["argv"][3:]).served_model_name == "mine"


def test_a_dry_run_prints_what_will_be_run(
    capsys: pytest.CaptureFixture[str], installed: None, executed: dict[str, Any]
) -> None:
    argv = ["--profile", "demo", "--port", str(free_port())]
    assert launch.main([*argv, "--dry-run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    launch.main(argv)
    assert executed["argv"][1:] == printed["argv"][1:]
    assert executed["environment"].items() >= printed["environment"].items()


@pytest.mark.parametrize("case", ["truncated file", "a pickle", "another architecture"])
def test_a_dry_run_does_not_pass_a_head_that_launch_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target_folder: Path, case: str
) -> None:
    head = write_head(tmp_path / "head")
    weights = head / "model.safetensors"
    if case == "truncated file":
        weights.write_bytes(weights.read_bytes()[:-8])
        message = "is not a whole safetensors file"
    elif case == "a pickle":
        weights.rename(head / "pytorch_model.bin")
        message = "a pickle: convert it to safetensors"
    else:
        write_config(head, {**SMALL_HEAD, "architectures": ["LlamaForCausalLMEagle"]})
        weights.unlink()
        message = "is an EAGLE-1 head"
    argv = ("--profile", "b1", "--target", str(target_folder), "--head", str(head), "--dry-run")
    assert message in error_of(capsys, *argv)


def test_a_dry_run_takes_a_head_whose_weights_are_not_here_yet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target_folder: Path
) -> None:
    head = write_config(tmp_path / "head", SMALL_HEAD)
    argv = ["--profile", "b1", "--target", str(target_folder), "--head", str(head), "--dry-run"]
    assert launch.main(argv) == 0
    assert f"{ENVIRONMENT_VARIABLE}=card" in capsys.readouterr().out


def test_launch_says_where_it_will_answer(
    capsys: pytest.CaptureFixture[str], installed: None, executed: dict[str, Any]
) -> None:
    port = free_port()
    launch.main(["--profile", "demo", "--port", str(port), "--host", "0.0.0.0", "--insecure"])
    said = capsys.readouterr().err
    assert f"answer at http://127.0.0.1:{port}; ask it with" in said
    assert f"chat --base-url http://127.0.0.1:{port} '" in said


@pytest.mark.parametrize(
    ("words", "url", "key"),
    [
        ("--host ::1", "http://[::1]:30000", False),
        ("--host ::", "http://[::1]:30000", False),
        ("--host 2001:db8::7 --port 5", "http://[2001:db8::7]:5", False),
        ("--host 0.0.0.0 --api-key K", "http://127.0.0.1:30000", True),
        ("--host a.example --ssl-certfile c --ssl-keyfile k", "https://a.example:30000", False),
    ],
)
def test_the_url_is_one_that_a_client_takes(words: str, url: str, key: bool) -> None:
    found = command_line.Launch(tuple(words.split()))
    assert found.url == url
    assert found.wants_key is key


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4096", 4096), ("256k", 256_000), ("256Ki", 262_144), ("25.6k", 25_600), ("1M", 10**6),
        ("+2", 2), ("2_0", 20), (" 7 ", 7),
        ("1.5Ki", None), ("x", None), ("", None), ("-1", None), ("1.5", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_sglang_reads_them(text: str, number: int | None) -> None:
    assert flags.parse(["--context-length", text]).number("--context-length") == number


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--no-such-flag", "5"], "SGLang has no flag --no-such-flag; `sglang serve --help`"),
        (["--max-runing-requests", "5"], "no flag --max-runing-requests: --max-running-requests?"),
        (["--enable-m"], "SGLang has no flag --enable-m: --enable-m"),
        (["--mem-fraction-static", "abc"], "--mem-fraction-static 'abc': a number is needed"),
        (["--max-running-r=5.5"], "--max-running-r '5.5': a whole number is needed"),
        (
            ["--cuda-graph-bs-decode", "1", "x"],
            "--cuda-graph-bs-decode 'x': a whole number is needed",
        ),
        (["--max-total-tokens", "12Kb"], "--max-total-tokens '12Kb': a number of tokens"),
        (["--log-level"], "--log-level needs a value"),
        (["--served-model-name", "-q"], "--served-model-name needs a value"),
        (["--trust-remote-code=true"], "--trust-remote-code takes no value"),
        (["--trust-rem="], "--trust-rem takes no value"),
        (["-tp", "2"], "SGLang has no flag -tp: --tp-size?"),
        (["--enable-metrics", "-q"], "SGLang has no flag -q"),
    ],
)
def test_what_sglang_s_parser_would_end_at_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], cause: str
) -> None:
    assert cause in error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)


@pytest.mark.parametrize("words", [["-api-key", "S3CRET"], ["-api-key=S3CRET"]])
@pytest.mark.parametrize("release", ["0.5.17", "9.9"])
def test_a_secret_behind_one_dash_is_not_shown(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    release: str,
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: release)
    error = error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)
    assert "SGLang has no flag -api-key: --api-key?" in error
    assert "S3CRET" not in error


@pytest.mark.parametrize("count", ["2", "+2", "2_0", "0" * 30 + "2"])
def test_several_tokenizer_workers_and_a_key_are_refused(
    capsys: pytest.CaptureFixture[str], count: str
) -> None:
    words = ["--api-key", "K", f"--tokenizer-worker-num={count}"]
    error = error_of(capsys, "--profile", "b1", "--dry-run", "--", *words)
    assert "tokenizer workers SGLang checks no key" in error


@pytest.mark.parametrize(
    "words",
    [
        ["--disable-cuda-graph", "--enable-metrics"],
        ["--no-dllm-fdfo"],
        ["--cuda-graph-backend-prefill", "disabled"],
        ["--max-running-requests", "-1"],
        ["--served-model-name", "-a b"],
    ],
)
def test_every_kind_of_flag_and_value_is_taken(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert launch.main(["--profile", "b1", "--dry-run", "--", *words]) == 0


def test_what_it_takes_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--max-total-tokens", "8Ki", "--mem-fraction-static=.8"]
    words += ["--cuda-graph-bs-decode", "1", "2"]
    assert launch.main(["--profile", "b1", "--dry-run", "--", *words]) == 0


def test_a_release_without_a_table_may_have_flags_that_nobody_knows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "9.9")
    assert launch.main(["--profile", "b1", "--dry-run", "--", "--no-such-flag", "5"]) == 0


YARN = '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}'
YARN_OF_4096 = (
    '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, '
    '"original_max_position_embeddings": 4096}}'
)


@pytest.mark.parametrize(
    ("overrides", "asked", "cause"),
    [
        (YARN, "16384", None),
        (YARN, "16385", "a context of 16385 is asked for, SGLang derives 16384"),
        (YARN_OF_4096, "16384", "a context of 16384 is asked for, SGLang derives 4096"),
        ('{"max_position_embeddings": 9999}', "9999", None),
        ('{"max_position_embeddings": 99}', "100", "the target knows 99"),
        ('{"num_experts": 8}', "4097", "the target knows 4096"),
        ("{x}", "4096", "--json-model-override-args '{x}' is not JSON"),
        ("[]", "4096", "'[]': an object of the config's keys"),
        ('{"rope_scaling": {"factor": "4"}}', "4096", "factor of the rope is '4'"),
        ('{"num_attention_heads": "x"}', "4096", "num_attention_heads"),
    ],
)
def test_a_context_is_held_against_what_sglang_derives(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: str,
    asked: str,
    cause: str | None,
) -> None:
    words = ["--profile", "demo", "--dry-run", "--", "--json-model-ov", overrides]
    words += [f"--context-length={asked}"]
    if cause is None:
        assert launch.main(words) == 0
        return
    assert cause in error_of(capsys, *words)
    if "is asked for" in cause:
        monkeypatch.setenv(refusals.LONGER_CONTEXT, "1")
        assert launch.main(words) == 0


@pytest.mark.parametrize("option", [[], ["--no-speculation"]])
def test_a_context_that_the_target_does_not_know_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    for asked in ("100000", "256k"):
        words = ["--profile", "demo", "--dry-run", *option, "--", "--context-length", asked]
        assert "is asked for, the target knows 4096" in error_of(capsys, *words)
        for on in ("1", "True", "yes", "y"):
            monkeypatch.setenv(refusals.LONGER_CONTEXT, on)
            assert launch.main(words) == 0
        monkeypatch.delenv(refusals.LONGER_CONTEXT)
        capsys.readouterr()
    assert launch.main([*words[:-1], "4096"]) == 0


def by_release(
    monkeypatch: pytest.MonkeyPatch, release: str | None, served: str = "0.5.17"
) -> None:
    """As if that release of SGLang were installed, or none, and `[serve]` installed `served`."""

    def version(name: str) -> str:
        if release is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return release

    required = [f"sglang=={served} ; extra == 'serve'", "sglang==9.9.9; extra == 'train'", "PyYAML"]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: required)
    flags.table.cache_clear()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Releases can be pretended; afterwards the table is again that of the installed one."""
    yield monkeypatch
    monkeypatch.undo()
    flags.table.cache_clear()


BATCHES, WATERMARKS = ["--cuda-graph-bs", "1", "2"], ["--watermark-config", "{}"]


@pytest.mark.parametrize(
    ("release", "taken", "refused"),
    [("0.5.17", BATCHES, WATERMARKS), ("0.5.23", WATERMARKS, BATCHES)],
)
def test_a_flag_is_unknown_by_the_table_of_the_installed_release(
    tables: pytest.MonkeyPatch, release: str, taken: list[str], refused: list[str]
) -> None:
    by_release(tables, release)
    flags.check(flags.parse(taken))
    with pytest.raises(UserError, match=f"SGLang has no flag {refused[0]}"):
        flags.check(flags.parse(refused))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disable-piecewise-cuda-graph: true", "give it as a flag, --disable-piecewise-cuda-graph"),
        ("cuda-graph-backend-prefill: full", "SGLang takes no cuda-graph-backend-prefill from a"),
    ],
)
def test_what_only_an_older_release_takes_from_no_file(
    tables: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    by_release(tables, "0.5.17")
    with pytest.raises(UserError, match=message):
        flags.parse(["--config", str(file)])


def test_a_flag_that_is_gone_is_told_with_what_begins_so(tables: pytest.MonkeyPatch) -> None:
    by_release(tables, "0.5.23")
    with pytest.raises(UserError, match="--cuda-graph-bs-decode or --cuda-graph-bs-prefill"):
        flags.check(flags.parse(BATCHES))


def test_a_release_without_a_table_may_know_more_than_the_newest(
    tables: pytest.MonkeyPatch,
) -> None:
    by_release(tables, "0.5.99")
    flags.check(flags.parse([*WATERMARKS, "--of-another-release", "1"]))
    with pytest.raises(UserError, match="--page-size 'x': a whole number"):
        flags.check(flags.parse(["--page-size", "x"]))


@pytest.mark.parametrize(
    ("served", "known"), [("0.5.17", BATCHES), ("0.5.23", WATERMARKS), ("0.5.99", WATERMARKS)]
)
def test_without_sglang_the_flags_are_those_of_what_serve_installs(
    tables: pytest.MonkeyPatch, served: str, known: list[str]
) -> None:
    by_release(tables, None, served)
    flags.check(flags.parse(known))
    other = BATCHES if known is WATERMARKS else WATERMARKS
    with pytest.raises(UserError, match="SGLang has no flag"):
        flags.check(flags.parse(other))


def test_newer_is_by_number(tables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for release in ("0.5.9", "0.5.10"):
        row = {"names": [f"--of-{release}"], "values": "0"}
        (tmp_path / f"sglang-{release}.flags.json").write_text(json.dumps({"own": row}))
    tables.setattr(flags, "data_dir", lambda _name: tmp_path)
    by_release(tables, "0.5.11")
    assert flags.find("--of-0.5.10") is not None


def test_a_file_of_flags_has_the_keys_that_the_release_reads(
    tables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """0.5.23 takes a switch by any of its names; 0.5.17 by its destination's alone."""
    file = tmp_path / "flags.yaml"
    file.write_text("enable-hicache: true\ndata-parallel-size: 2\n")
    by_release(tables, "0.5.23")
    parsed = flags.parse(["--config", str(file)])
    flags.check(parsed)
    assert parsed.of("--enable-hierarchical-cache")
    assert parsed.value("--dp-size") == "2"
    file.write_text("no-enable-tf32-matmul: true\n")
    with pytest.raises(UserError, match="takes no no-enable-tf32-matmul from a file"):
        flags.parse(["--config", str(file)])
