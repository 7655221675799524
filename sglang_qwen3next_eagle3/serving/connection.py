"""The way to a server: address, key, proxy and certificate, and what went wrong on it in words.

A dry run only asks what an address is: HTTP and TLS are imported where something is connected to.
"""

import contextlib
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import text_without_secrets
from sglang_qwen3next_eagle3.base.secrets import check_key, read_key

if TYPE_CHECKING:
    import httpx

DEFAULT_BASE_URL = "http://127.0.0.1:30000"
API_KEY_VARIABLE = "SGLANG_API_KEY"
"""Where the verbs that ask a server find its key, unless they are given one."""
CONNECT_SECONDS = 10.0
"""A server that is there takes a connection at once, whatever its answer takes."""
_API = ("/chat/completions", "/v1")
_EXCERPT = 200


class Connection:
    """One server and the HTTP client for it. base_url: with or without `/v1`, also as an OpenAI
    client spells the whole route. shown: the same for messages, without a password; key: whether
    one is sent.

    Proxies of the environment are asked for other machines only, as is usual with NO_PROXY;
    SSL_CERT_FILE and SSL_CERT_DIR name certificates that are trusted beyond the usual ones.
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        import httpx

        address = base_url.strip().rstrip("/")
        for suffix in _API:
            address = address.removesuffix(suffix)
        self.url = address.rstrip("/")
        self.shown = text_without_secrets(self.url)
        self.key = bool(api_key)
        headers = authorization(api_key)
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise self._no_address(_line(error)) from None
        if url.scheme not in ("http", "https") or not url.host:
            raise self._no_address("it begins with http:// or https:// and a name")
        self.host = url.host
        local = is_this_machine(url.host)
        self.proxy = None if local else _proxy_of(url)
        try:
            self.http = httpx.Client(
                base_url=url,
                headers=headers,
                trust_env=not local,
                # The environment's certificates also where its proxies are not asked.
                verify=httpx.create_ssl_context() if url.scheme == "https" else True,
            )
        except OSError as error:
            raise UserError(
                f"SSL_CERT_FILE or SSL_CERT_DIR holds no certificates ({error.strerror or error}): "
                "mend or unset it"
            ) from None
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UserError(
                f"a proxy of the environment cannot be used ({_line(error)}): mend it, or go to "
                f"{self.shown} without it by NO_PROXY={self.host}"
            ) from None

    def limits(self, seconds: float) -> "httpx.Timeout":
        """seconds: without a byte of the answer. Raises UserError: that is no time."""
        import httpx

        if not 0 < seconds < math.inf:
            raise UserError(f"a timeout of {seconds:g} s: seconds above 0 are needed")
        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))

    @contextlib.contextmanager
    def explained(self, seconds: float) -> Iterator[None]:
        """What goes wrong between here and the server, as one line with the way out."""
        import httpx

        try:
            yield
        except httpx.ProxyError as error:
            raise UserError(
                f"the proxy of the environment does not lead to {self.shown} ({_line(error)}): "
                f"NO_PROXY={self.host} goes there without it"
            ) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UserError(self._unreached(error)) from None
        except httpx.TimeoutException:
            raise UserError(
                f"{self.shown} timed out: no byte of the answer came for {seconds:g} s; ask for "
                "fewer tokens, or wait longer (`chat --timeout`, Client(timeout=...))"
            ) from None
        except httpx.RequestError as error:
            raise UserError(
                f"the connection to {self.shown} broke ({_line(error)}): see whether the server "
                "still runs, and whether it wants https"
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(
                f"{self.shown} does not answer as the OpenAI API does: is it an SGLang server?"
            ) from None

    def refusal(self, response: "httpx.Response") -> UserError:
        """What a status other than 200 means. The response was read."""
        status = response.status_code
        if response.has_redirect_location:
            return UserError(
                f"{self.shown} sends us on to {response.headers['Location']} ({status}): name the "
                "address that answers with --base-url"
            )
        said = f"the server refused ({status}): {_said(response)}"
        if status in (401, 403):
            other = "another key" if self.key else "its key"
            said += f"; it wants {other}: --api-key, --api-key-file or ${API_KEY_VARIABLE}"
        elif status in (404, 405):
            said += f"; is {self.shown} the address of an SGLang server?"
        elif status in (429, 502, 503, 504):
            said += "; ask again later"
        return UserError(said)

    def _no_address(self, why: str) -> UserError:
        return UserError(
            f"{self.shown!r} is no address of a server ({why}): write it as {DEFAULT_BASE_URL}"
        )

    def _unreached(self, error: Exception) -> str:
        import ssl

        cause = _cause(error, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self.shown} is not trusted ({cause.verify_message}): name "
                "the file of its CA with SSL_CERT_FILE"
            )
        if cause is not None:
            return (
                f"{self.shown} does not speak TLS as asked ({_line(error)}): is it http:// there?"
            )
        through = ""
        if self.proxy:
            through = (
                f", or the proxy {text_without_secrets(self.proxy)} of the environment does not "
                f"(NO_PROXY={self.host} goes without it)"
            )
        elif _cause(error, socket.gaierror) is not None:
            through = ", there is no machine of this name"
        return (
            f"no server answers at {self.shown}{through}: start one with "
            "`sglang-qwen3next-eagle3 launch --profile demo`, or name it with --base-url"
        )


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries the key. Raises UserError: no header can hold it."""
    if not api_key:
        return {}
    check_key(api_key)
    return {"Authorization": f"Bearer {api_key}"}


def find_key(given: str | None, file: Path | None, variable: str | None) -> str | None:
    """The key that was given, that of a file, or that of the environment, in this order; white
    space around the latter two is left out.

    Raises:
        UserError: the file cannot be read, or holds none.
    """
    if given is not None or file is None:
        return given or (variable or "").strip() or None
    return read_key(file, "--api-key-file")


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine only."""
    if host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def message_of(body: Any) -> str:
    """What an error's body says, in one line, in whichever of the usual shapes it comes."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or inner
    return " ".join(str(inner).split())


def is_this_machine(host: str) -> bool:
    """Where no proxy of the environment is asked."""
    # 0.0.0.0 is what a server prints that listens everywhere; to connect there is to connect here.
    return is_loopback(host) or host.endswith(".localhost") or host in ("0.0.0.0", "::")


def _proxy_of(url: "httpx.URL") -> str | None:
    """Of the environment, for messages; which one is asked httpx decides."""
    import urllib.request

    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(url.netloc.decode()):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


def _said(response: "httpx.Response") -> str:
    try:
        return message_of(response.json())
    except ValueError:
        text = " ".join(response.text.split())
    if text.startswith("<"):
        return "a page for a browser, not an API's answer"
    return text[:_EXCERPT] or response.reason_phrase


def _cause(error: BaseException | None, kind: type[BaseException]) -> Any:
    """The exception of this kind that an error began with, if one did."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _line(error: Exception) -> str:
    return " ".join(text_without_secrets(str(error)).split()) or type(error).__name__
