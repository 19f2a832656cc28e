"""Where webhooks may go, and the many ways to write where they may not."""

from __future__ import annotations

import pytest

from relay.core.webhook_target import check, is_public, shown

PUBLIC = [
    "https://example.com",
    "https://example.com/hook?x=1&y=%2F",
    "https://EXAMPLE.com:443/",
    "https://hooks_1.example.co.uk:8443/\\@127.0.0.1",
    "https://xn--exmple-cua.com/",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://[64:ff9b::808:808]/",
]

# As 40 forbidden targets of the fault plan, and more.
FORBIDDEN_HOSTS = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001"),
    *("127.0.0.1.", "127.000.000.001", "0", "0.0.0.0", "0x0", "localhost", "LOCALHOST", "localhost.", "a.localhost"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "192.0.0.192", "198.18.0.1"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "168.63.129.16", "100.100.100.200", "metadata.google.internal"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
    *("[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::808:808]"),
    *("[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]", "[2002:7f00:1::]"),
    *("[2001::1]", "[2001:db8::1]", "[3fff::1]", "[100::1]", "[127.0.0.1]"),
    *("redis", "router.lan", "db.corp", "printer.local", "nas.home.arpa", "api.default.svc", "a.svc.cluster.local"),
    *(
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "ex\u00e4mple.com",
        "-a.com",
        "a..com",
        ".com",
        "a" * 64 + ".com",
    ),
    *("", "[]", "[::1", "::1", "user@example.com", "user:secret@example.com", "example.com\\@127.0.0.1", "a b.com"),
    *("1.2.3.4.5", "1.2.3.256", "example.com.0x7f"),
]

FORBIDDEN_URLS = [
    *("", "example.com", "//example.com/", "https:/example.com", "https:///example.com", "https:\\\\example.com"),
    *(
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com:6379/_x",
        "redis://a.com/",
    ),
    *("https://example.com:22/", "https://example.com:6379/", "https://example.com:0/", "https://example.com:65536/"),
    *("https://example.com:/", "https://example.com:-1/", "https://example.com:443x/", "https://example.com?x"),
    *("https://example.com/#part", "https://example.com/a b", "https://example.com/\n", "https://example.com/é"),
    *(" https://example.com/", "https://example.com/\x00", "https://example.com\t/"),
]


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_target(url: str) -> None:
    check(url, allow_private=False)


@pytest.mark.parametrize("url", [f"https://{host}/hook-s3cret" for host in FORBIDDEN_HOSTS] + FORBIDDEN_URLS)
def test_a_forbidden_target(url: str) -> None:
    with pytest.raises(ValueError, match=r"^Input should be ") as refused:
        check(url, allow_private=False)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/x", "http://localhost/", "https://[::1]:1/", "http://redis:6379"]
)
def test_what_an_operator_may_allow(url: str) -> None:
    check(url, allow_private=True)
    with pytest.raises(ValueError, match=r"^Input should be "):
        check(url, allow_private=False)


@pytest.mark.parametrize("url", ["ftp://localhost/", "https://2130706433/", "https://a@localhost/", "https://a.com:0/"])
def test_what_nobody_may(url: str) -> None:
    with pytest.raises(ValueError, match=r"^Input should be "):
        check(url, allow_private=True)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("172.15.255.255", True), ("172.32.0.0", True), ("100.128.0.0", True)),
        *(("127.255.255.255", False), ("0.1.2.3", False), ("169.254.0.1", False), ("255.255.255.255", False)),
        *(("2a00:1450:4001:80b::200e", True), ("::ffff:8.8.8.8", True), ("64:ff9b::8.8.8.8", True)),
        *(("::ffff:10.1.2.3", False), ("64:ff9b::10.1.2.3", False), ("::8.8.8.8", False), ("fe80::1%eth0", False)),
        *(("2002:808:808::1", False), ("2001:0:4136:e378::", False), ("4000::1", False), ("::", False)),
    ],
)
def test_an_address(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://example.com/s3cret?s3cret", "https://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("http://[::1]:80/s3cret", "http://[::1]:80"),
    ],
)
def test_of_a_url_its_path_is_not_shown(url: str, seen: str) -> None:
    assert shown(url) == seen
