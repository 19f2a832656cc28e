"""Nobody reaches the sandbox from outside by accident."""

import pytest

from relay.sandbox.guard import credential_of, listen, url_of
from relay.sandbox.refusal import Refusal
from tests.support import http


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "10.0.0.1", "example.com", "::ffff:0.0.0.0"])
def test_it_does_not_listen_where_others_could_connect(host: str) -> None:
    with pytest.raises(ValueError, match="this machine only"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
def test_it_listens_on_loopback(host: str) -> None:
    with listen(host, 0) as listener:
        assert listener.getsockname()[0].startswith("127.")


def test_a_free_port_is_told_by_the_url() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener.getsockname()) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert url_of(("::1", 8089, 0, 0)) == "http://[::1]:8089"


def test_it_listens_anywhere_when_told_so() -> None:
    with listen("0.0.0.0", 0, allow_remote=True) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8089", "LOCALHOST", "[::1]:80", "127.1.2.3:1"])
async def test_it_answers_to_loopback_names(port: int, host: str) -> None:
    assert (await http.request(port, "GET", "/healthz", [("host", host)])).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "["])
async def test_it_does_not_answer_to_a_name_rebound_to_loopback(port: int, host: str) -> None:
    assert (await http.request(port, "GET", "/__sandbox/stats", [("host", host)])).status == 421


def test_both_headers_carry_a_key_and_x_api_key_counts() -> None:
    plain = credential_of({"x-api-key": "k"}, None)
    assert plain == credential_of({"authorization": "Bearer k"}, None)
    assert plain == credential_of({"authorization": "Bearer other", "x-api-key": "k"}, None)
    assert plain != credential_of({"x-api-key": "other"}, None)


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"authorization": "Bearer "}, {"authorization": "Basic k"}])
def test_without_a_key_there_is_no_answer(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        credential_of(headers, None)
    assert refused.value.status == 401


def test_a_sandbox_with_a_key_of_its_own_takes_no_other() -> None:
    assert credential_of({"x-api-key": "k"}, "k")
    with pytest.raises(Refusal) as refused:
        credential_of({"x-api-key": "K"}, "k")
    assert refused.value.status == 401
