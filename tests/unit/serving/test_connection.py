"""The way to a server: addresses, keys, proxies, certificates."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import Client
from sglang_qwen3next_eagle3.serving.connection import authorization, find_key
from tests.support.certificates import Authority
from tests.support.fake_chat import FakeChat, serving

ELSEWHERE = "http://10.1.2.3:30000"


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with serving() as fake:
        yield fake


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"]
)
def test_an_address_is_taken_as_people_write_it(server: FakeChat, ending: str) -> None:
    assert Client(f" {server.url}{ending}").chat("a").text == "def merge"
    assert server.requests[0]["path"] == "/v1/chat/completions"


def test_a_prefix_of_the_address_stays(server: FakeChat) -> None:
    Client(f"{server.url}/models/one/v1").chat("a")
    assert server.requests[0]["path"] == "/models/one/v1/chat/completions"


@pytest.mark.parametrize(
    "base_url",
    [
        "127.0.0.1:30000",
        "localhost:30000/v1",
        "http://[::",
        "http://host:port",
        "http://",
        "",
        "ftp://a",
        "unix:/run/sglang.sock",
        "unix:///run/sglang.sock",
        "http+unix://%2Frun%2Fsglang.sock",
        "http://a\nb",
    ],
)
def test_what_is_no_address_is_said(base_url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server.*write it as http") as caught:
        Client(base_url)
    assert "\n" not in str(caught.value)


def test_a_machine_of_no_such_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match="no server answers at .*, there is no machine of this na"):
        Client("http://nowhere.invalid:30000").chat("a")


def test_a_password_in_an_address_is_not_told() -> None:
    for url in ("http://me:topsecret@127.0.0.1:9", "ftp://me:topsecret@host", "x://:topsecret@h"):
        with pytest.raises(UserError) as caught:
            Client(url).chat("a")
        assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_proxy_is_not_asked_about_this_machine(
    server: FakeChat, monkeypatch: pytest.MonkeyPatch, name: str, host: str
) -> None:
    # In the lower case: elsewhere HTTP_PROXY is none where a CGI script runs.
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Client(server.url.replace("127.0.0.1", host)).chat("a").text == "def merge"


def test_a_proxy_is_asked_about_other_machines(
    server: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    assert Client(ELSEWHERE).chat("a").text == "def merge"
    assert server.requests[0]["path"] == f"{ELSEWHERE}/v1/chat/completions"


def test_a_proxy_that_is_not_there_is_told_with_the_way_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:topsecret@127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    for url in (ELSEWHERE, ELSEWHERE.replace("http", "https")):
        with pytest.raises(
            UserError, match=r"or the proxy http://.*NO_PROXY=10\.1\.2\.3"
        ) as caught:
            Client(url).chat("a")
        assert "topsecret" not in str(caught.value)


def test_no_proxy_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "10.1.2.3")
    with pytest.raises(UserError) as caught:
        Client(ELSEWHERE, timeout=0.2).chat("a")
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["nonsense://a:1", "http://a:port"])
def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(UserError, match=r"a proxy of the environment cannot be used .*NO_PROXY="):
        Client(ELSEWHERE)


def test_a_listener_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"timed out: no byte of the answer came for 0\.2 s"):
            Client(url, timeout=0.2).chat("a")
    with pytest.raises(UserError, match="seconds above 0"):
        Client(url, timeout=-1)


def test_https_with_a_certificate_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.make(tmp_path)
    with serving(tls=authority.server_context()) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        assert Client(server.url).chat("a").text == "def merge"
        assert "".join(Client(server.url).chat("a", stream=True)) == "1 3 6 7 "
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(UserError, match="certificate of https://.* is not trusted.*SSL_CERT_F"):
            Client(server.url).chat("a")
        with pytest.raises(UserError, match="broke .*whether it wants https"):
            Client(server.url.replace("https", "http")).chat("a")


def test_https_where_http_is_spoken_is_told(server: FakeChat) -> None:
    with pytest.raises(UserError, match="does not speak TLS as asked .*is it http:// there"):
        Client(server.url.replace("http", "https")).chat("a")


@pytest.mark.parametrize("url", ["https://127.0.0.1:9", "https://10.1.2.3", ELSEWHERE])
def test_certificates_that_are_not_there_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    for content in (None, "no certificate"):
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_text(content)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(UserError, match="SSL_CERT_FILE or SSL_CERT_DIR holds no certificates"):
            Client(url)


def test_a_key_comes_from_what_was_given_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("filed\n")
    assert find_key("given", file, "set") == "given"
    assert find_key(None, file, "set") == "filed"
    assert find_key(None, None, " set\n") == "set"
    assert find_key(None, None, "") is None
    assert find_key(None, None, None) is None


def test_a_file_without_a_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("empty", "binary", "absent", "."):
        with pytest.raises(UserError, match="--api-key-file .* (is empty|cannot be read)"):
            find_key(None, tmp_path / name, None)


@pytest.mark.parametrize("key", ["schlüssel", "top\nsecret", "topsecret ", "top\x00secret"])
def test_a_key_that_no_header_holds_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(UserError, match="no HTTP header holds") as caught:
        authorization(key)
    assert key.strip() not in str(caught.value)
