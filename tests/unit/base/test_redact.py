import time

import pytest

from sglang_qwen3next_eagle3.base.redact import (
    is_secret,
    masked,
    text_without_secrets,
    without_paths,
    without_secrets,
)

SECRET_FLAGS = ["--api-key", "--admin-api-key", "--ssl-keyfile-password", "--hf-token"]


@pytest.mark.parametrize("flag", [*SECRET_FLAGS, "--api-k", "--ap", "--admin", "--ssl-keyfile-p"])
@pytest.mark.parametrize("joined", [False, True])
def test_no_secret_stays_in_a_command_line(flag: str, joined: bool) -> None:
    given = [f"{flag}=K3Y"] if joined else [flag, "K3Y"]
    words = masked(["launch", "--port", "1", *given, "--tp", "4"])
    assert "K3Y" not in " ".join(words)
    assert words[:3] == ["launch", "--port", "1"]
    assert words[-2:] == ["--tp", "4"]


def test_a_secret_that_looks_like_a_flag_hides_itself_only() -> None:
    assert masked(["--api-key", "--api-key", "--tp", "4"]) == ["--api-key", "***", "--tp", "4"]


@pytest.mark.parametrize(
    "flag",
    ["--attention-backend", "--ssl-keyfile", "--bucket-time-to-first-token", "--max-total-tokens"],
)
def test_what_is_no_secret_is_shown(flag: str) -> None:
    assert masked([flag, "1"]) == [flag, "1"]
    assert not is_secret(flag)


def test_variables_and_hub_tokens_are_masked_wherever_they_stand() -> None:
    words = ["HF_TOKEN=abc", "--config=x", "hf_abcdefghijklmnop"]
    assert masked(words) == ["HF_TOKEN=***", "--config=x", "***"]


def test_a_profile_is_written_without_its_keys() -> None:
    profile = {
        "target": "a/b",
        "sglang": {"api-key": "K3Y", "tp": 4, "ssl-keyfile-password": "P"},
        "environment": {"HF_TOKEN": "T", "OMP_NUM_THREADS": "1"},
        "flags": ["--admin-api-key", "A"],
    }
    assert without_secrets(profile) == {
        "target": "a/b",
        "sglang": {"api-key": "***", "tp": 4, "ssl-keyfile-password": "***"},
        "environment": {"HF_TOKEN": "***", "OMP_NUM_THREADS": "1"},
        "flags": ["--admin-api-key", "***"],
    }


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        (
            "server_args=ServerArgs(api_key='K3Y', port=1)",
            "server_args=ServerArgs(api_key=***, port=1)",
        ),
        ("ServerArgs(api_key=None, tp=1)", "ServerArgs(api_key=None, tp=1)"),
        ('{"api_key": "K3Y", "port": 1}', '{"api_key": ***, "port": 1}'),
        ("python -m x --api-key K3Y --tp 4", "python -m x --api-key *** --tp 4"),
        ("python -m x --api-k=K3Y --tp 4", "python -m x --api-k=*** --tp 4"),
        ("a key opens a door", "a key opens a door"),
        ("token: hf_abcdefghijklmnop", "token: ***"),
        ("seen hf_abcdefghijklmnop here", "seen *** here"),
        ("x --api-key a,b;c --tp 4", "x --api-key *** --tp 4"),
        ("x --api-key=a,b;c --tp 4", "x --api-key=*** --tp 4"),
        ("x --api-key 'it'\"'\"'s mine' --tp 4", "x --api-key *** --tp 4"),
        ("['--api-key', 'K3Y', '--tp', '4']", "['--api-key', ***, '--tp', '4']"),
        ("api_key=a,b;c, port=1", "api_key=***, port=1"),
        ("api_key=K3Y,port=1", "api_key=***,port=1"),
        ("api_key=None,port=1", "api_key=None,port=1"),
        (r"api_key='it\'s K3Y', port=1", "api_key=***, port=1"),
        (r'{"api_key": "a\"b, c", "port": 1}', '{"api_key": ***, "port": 1}'),
        (r"{\"api_key\": \"K3Y\", \"port\": 1}", r"{\"api_key\": ***, \"port\": 1}"),
        ("api_key='K3Y and its line is cut\nport=1", "api_key=***\nport=1"),
        ("Authorization: Bearer K3Y", "Authorization: Bearer ***"),
        ("{'Authorization': 'Bearer K3Y', 'a': 1}", "{'Authorization': 'Bearer ***', 'a': 1}"),
        ("(b'authorization', b'Bearer K3Y')", "(b'authorization', b'Bearer ***')"),
        ("at http://me:p@w@host:1/v1", "at http://***@host:1/v1"),
        ("HF_TOKEN=abc hf-token: abc auth_token='a'", "HF_TOKEN=*** hf-token: *** auth_token=***"),
    ],
)
def test_a_log_line_loses_the_values_only(line: str, clean: str) -> None:
    assert text_without_secrets(line) == clean


@pytest.mark.parametrize(
    "line",
    [
        "Prefill batch, #new-seq: 1, #new-token: 64, #cached-token: 0, token usage: 0.00, "
        "#running-req: 0, #queue-req: 0, input throughput (token/s): 12.34",
        "Decode batch, #running-req: 1, #token: 120, token usage: 0.00, accept len: 2.50, "
        "accept rate: 0.62, cuda graph: True, gen throughput (token/s): 210.35, #queue-req: 0",
        "max_total_num_tokens=4096, chunked_prefill_size=2048, max_prefill_tokens=16384, "
        "max_running_requests=48, context_len=262144, available_gpu_mem=8.10 GB",
        "eos_token='<|im_end|>', pad_token: <|endoftext|>, eos_token_id=151645",
        "INFO: 127.0.0.1:5 - GET http://127.0.0.1:30000/v1/models?to=a@b HTTP/1.1",
    ],
)
def test_the_figures_of_sglang_s_log_stay(line: str) -> None:
    assert text_without_secrets(line) == line


def test_a_long_line_takes_no_time() -> None:
    begun = time.process_time()
    for line in ("a-" * 50_000, "http://" + "a." * 50_000, "key=" + ",a" * 50_000):
        text_without_secrets(line)
    assert time.process_time() - begun < 5, "a line's time grows with its length alone"


def test_headers_and_logins_are_masked_in_a_command_line() -> None:
    words = ["-H", "Authorization: Bearer K3Y", "--base-url", "http://me:K3Y@host:1/v1"]
    found = ["-H", "Authorization: Bearer ***", "--base-url", "http://***@host:1/v1"]
    assert masked(words) == found
    assert masked(["--base-url=http://me:K3Y@host"]) == ["--base-url=http://***@host"]


def test_no_path_of_the_machine_is_left() -> None:
    value = {
        "a": "/home/somebody/run/x.pt", "b": ["~/features", "org/name", 3], "c": {"d": ("/t",)},
        "e": "a/b", "f": None,
    }  # fmt: skip
    assert without_paths(value) == {
        "a": "x.pt", "b": ["features", "org/name", 3], "c": {"d": ["t"]}, "e": "a/b", "f": None,
    }  # fmt: skip
