"""Who may talk to the console, asked of the running server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from worlds.console_world import NEW, OLD, ROUTE, Answer, Running, running

from pointsman.web.access import COOKIE, Access, AccessRefused
from pointsman.web.app import FORM_BYTES_MAX, PAGES
from pointsman.web.loopback import NotLoopback, check_loopback

FORM = f"/routes/{ROUTE}/rules/0/weights"
KEYS = {pool: f"inference.networking.k8s.io/InferencePool/{pool}" for pool in (OLD, NEW)}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 12) as found:
        yield found


def fields(answer: Answer) -> dict[str, str]:
    """The fields of the form on a page."""
    found = dict(re.findall(r'<input[^>]* name="([^"]+)" value="([^"]*)"', answer.body))
    return found | {"reason": "a first tenth"}


def opened(console: Running) -> tuple[dict[str, str], dict[str, str]]:
    """The form's fields, and the headers with which a browser would send them."""
    answer = console.ask(FORM)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": cookie,
        "Origin": console.url,
        "Sec-Fetch-Site": "same-origin",
    }
    wanted = fields(answer) | {f"weight:{KEYS[NEW]}": "17"}
    shown = console.ask(f"{FORM}?{urlencode(wanted)}", headers={"Cookie": cookie})
    return fields(shown), headers


def send(console: Running, form: dict[str, str], headers: dict[str, str]) -> Answer:
    return console.ask(FORM, "POST", urlencode(form), headers)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:80", "[::2]"])
def test_a_host_that_is_not_ours_is_refused_in_plain_words(console: Running, host: str) -> None:
    for path in ("/", "/api/v1/log", "/events", "/static/console.css"):
        answer = console.ask(path, headers={"Host": host})

        assert answer.status in (400, 421), path
        assert "vllm" not in answer.body
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["localhost:8090", "127.0.0.1", "[::1]:8090", "LOCALHOST"])
def test_names_of_this_machine_are_served_at_any_port(console: Running, host: str) -> None:
    assert console.ask("/help", headers={"Host": host}).status == 200


def test_every_answer_forbids_what_our_pages_do_not_need(console: Running) -> None:
    paths = ("/", "/decisions", "/nowhere", "/api/v1/pools", "/static/htmx.min.js", "/log?first=x", FORM)
    for path in paths:
        answer = console.ask(path)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))

        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_pages_hold_no_inline_script_style_or_handler(console: Running) -> None:
    paths = [path for path, method, _ in PAGES if method == "GET" and "<" not in path]
    for path in [*paths, FORM, f"/routes/{ROUTE}", f"/pools/{OLD}", f"/decisions/{console.request()}", "/nowhere"]:
        body = console.ask(path).body

        assert not re.search(r"<script(?![^>]* src=)", body), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on", body), path
        assert not re.search(r'(src|href)="(https?:)?//', body), path


def test_the_cookie_is_hidden_from_scripts_and_other_sites(console: Running) -> None:
    cookie = console.ask("/").headers["set-cookie"]

    assert cookie.startswith(COOKIE + "=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_a_form_from_our_own_page_is_taken(console: Running) -> None:
    form, headers = opened(console)
    answer = send(console, form | {f"weight:{KEYS[NEW]}": "11", "confirmed": "yes"}, headers)

    assert answer.status == 303
    assert answer.headers["location"].startswith("/routes/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Origin": "http://evil.example"}, "origin"),
        ({"Origin": "null"}, "origin"),
        ({"Origin": "http://127.0.0.1:1"}, "origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site"),
        ({"Sec-Fetch-Site": "same-site"}, "another site"),
        ({"Sec-Fetch-Site": "none"}, "another site"),
        ({"Cookie": ""}, "token"),
        ({"Cookie": f"{COOKIE}=somebody-else"}, "token"),
    ],
)
def test_a_form_from_elsewhere_is_refused(console: Running, change: dict[str, str], words: str) -> None:
    form, headers = opened(console)
    written = len(console.world.written)
    answer = send(console, form | {f"weight:{KEYS[NEW]}": "12", "confirmed": "yes"}, headers | change)

    assert answer.status == 403
    assert words in answer.body
    assert len(console.world.written) == written


def asked_by_json(console: Running) -> tuple[dict[str, object], dict[str, str]]:
    """A change as JSON, and the headers with which a program would send it."""
    answer = console.ask("/api/v1" + FORM)
    headers = {"Content-Type": "application/json", "Cookie": answer.headers["set-cookie"].partition(";")[0]}
    told = answer.json
    return {
        "token": told["token"],
        "version": told["version"],
        "weights": {KEYS[NEW]: 12},
        "reason": "from elsewhere",
    }, headers


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"Origin": "http://evil.example"}, 403, "origin"),
        ({"Origin": "null"}, 403, "origin"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "another site"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "another site"),
        ({"Sec-Fetch-Site": "none"}, 403, "another site"),
        ({"Cookie": ""}, 403, "token"),
        ({"Cookie": f"{COOKIE}=somebody-else"}, 403, "token"),
        ({"Content-Type": "text/plain"}, 415, "wanted application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "wanted application/json"),
        ({"Host": "evil.example"}, 421, "host"),
    ],
)
def test_json_from_elsewhere_is_refused(console: Running, change: dict[str, str], status: int, words: str) -> None:
    body, headers = asked_by_json(console)
    head = console.world.appender.log.head.position
    answer = console.ask("/api/v1" + FORM, "POST", json.dumps(body), headers | change)

    assert answer.status == status
    assert words in answer.body
    assert console.world.appender.log.head.position == head


@pytest.mark.parametrize("token", ["", "0" * 64, "ü"])
def test_json_without_this_visits_token_is_refused(console: Running, token: str) -> None:
    body, headers = asked_by_json(console)

    assert console.ask("/api/v1" + FORM, "POST", json.dumps(body | {"token": token}), headers).status == 403


def test_only_the_twin_of_a_form_tells_a_token_and_sets_the_cookie_of_its_visit(console: Running) -> None:
    assert "HttpOnly; Path=/; SameSite=Strict" in console.ask("/api/v1" + FORM).headers["set-cookie"]
    assert "set-cookie" not in console.ask("/api/v1/routes").headers
    assert "access-control-allow-origin" not in console.ask("/api/v1" + FORM).headers


@pytest.mark.parametrize("token", ["", "0" * 64, "ü", "x" * 10_000])
def test_a_form_without_this_visits_token_is_refused(console: Running, token: str) -> None:
    form, headers = opened(console)

    assert send(console, form | {"token": token, "confirmed": "yes"}, headers).status == 403


def test_tokens_of_another_process_are_worth_nothing() -> None:
    visit = Access().new_visit()
    headers = {"host": "localhost", "origin": "http://localhost"}

    with pytest.raises(AccessRefused, match="token"):
        Access().check_change(headers, visit, Access().token(visit))


def test_no_get_changes_anything(console: Running) -> None:
    form, headers = opened(console)
    head, written = console.world.appender.log.head.position, len(console.world.written)
    query = urlencode(form | {"confirmed": "yes", f"weight:{KEYS[NEW]}": "13"})
    for path, _, _ in PAGES:
        address = (
            path.replace("<namespace>/<name>", ROUTE).replace("<number:rule>", "0").replace("<number:position>", "25")
        )
        console.ask(f"{address.replace('<path:request_id>', 'x')}?{query}", headers=headers)

    assert console.world.appender.log.head.position == head
    assert len(console.world.written) == written


def test_methods_that_no_page_has_are_refused(console: Running) -> None:
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        assert console.ask("/pools", method, "x").status == 405
        assert console.ask("/api/v1/pools", method, "x").status == 405
        assert console.ask("/events", method, "x").status in (404, 405)


def test_an_oversized_form_is_refused(console: Running) -> None:
    form, headers = opened(console)
    answer = send(console, form | {"reason": "x" * (FORM_BYTES_MAX + 1)}, headers)

    assert answer.status == 413
    assert f"{FORM_BYTES_MAX:,}" in answer.body


def test_headers_and_addresses_cannot_carry_headers_of_their_own(console: Running) -> None:
    for path in ("/requests/%0d%0aset-cookie:%20x=y", "/decisions?request=a%0d%0aset-cookie:x=y", "/pools/a%0d%0ab/c"):
        answer = console.ask(path)

        assert answer.status in (400, 404)
        assert "x=y" not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "", "127.evil", "::ffff:192.0.2.1"])
def test_off_loopback_the_console_does_not_listen_and_says_why(host: str) -> None:
    with pytest.raises(NotLoopback, match=r"no sign-in yet.*ssh -L"):
        check_loopback(host)


def test_all_of_loopback_is_loopback() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        check_loopback(host)


def test_no_page_of_ours_is_reachable_by_a_path_of_its_own(console: Running, tmp_path: Path) -> None:
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/",
        "/static/x\\..\\y",
    ):
        assert console.ask(path.replace("\\", "%5c")).status in (400, 404)


def test_a_websocket_handshake_is_refused_before_anything_else(console: Running) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    for path in ("/", "/events", "/decisions", "/none"):
        for host in ("127.0.0.1", "evil.example"):
            assert console.ask(path, headers=headers | {"Host": host}).status == 403, (path, host)
