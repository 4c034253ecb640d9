"""The page is for this machine; a request that is no page's own, or malformed, is refused."""

import http.client
import json

import pytest
from PIL import Image

from tadp_d2.app import local_server
from tadp_d2.app.image_shelf import KEPT
from tadp_d2.cli import main

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
SIDE = {"model": 0, "text": "a dog", "domain": "watercolor", "modifier": "simple"}


@pytest.fixture
def ask(server):
    """ask("GET", path, body, headers) -> status, what the JSON or the body is"""

    def request(method, path, body=None, headers=(), host=f"127.0.0.1:{server.server_port}"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request(method, path, body, {"Host": host, **dict(headers)})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(content) if is_json else content

    return request


def test_only_this_machines_own_page_is_answered(ask, server):
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    assert ask("GET", "/")[0] == 200
    assert ask("GET", "/", host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert ask("GET", "/setup", host=host)[0] == 403, host
    body = json.dumps(SIDE)
    assert ask("POST", "/read", body, {**JSON, "Origin": f"http://localhost:{port}"})[0] == 200
    for origin in ("http://evil.example", f"https://127.0.0.1:{port}", "null", "http://127.0.0.1"):
        assert ask("POST", "/read", body, {**JSON, "Origin": origin})[0] == 403, origin
    # What a foreign page may send without asking first.
    assert ask("POST", "/read", body, {"Content-Type": "text/plain"})[0] == 415
    assert ask("POST", "/upload?name=a", b"x", {"Content-Type": "text/plain"})[0] == 415


@pytest.mark.parametrize(
    "key",
    ["../../etc/passwd", "/etc/passwd", "", ":", "dark_zurich_val:../1", "dark_zurich_val:-1"]
    + ["dark_zurich_val:99", "dark_zurich_val:²", "unknown:0"],
)
def test_no_key_is_a_path(ask, key):
    from urllib.parse import quote

    status, answer = ask("GET", f"/image?side=100&key={quote(key)}")
    assert (status, answer) == (400, {"message": "this image is no longer here: choose it again"})


def test_a_malformed_request_gets_a_message(ask):
    assert ask("GET", "/etc/passwd")[0] == ask("GET", "/../app.html")[0] == 404
    assert ask("GET", "/images?dataset=unknown&start=0")[0] == 400
    assert ask("GET", "/images?dataset=dark_zurich_val&start=x")[0] == 400
    for body in (b"", b"[]", b"{", b"[" * 20_000, b"\xff"):
        assert ask("POST", "/read", body, JSON)[0] == 400, body[:10]
    wrong = [{"model": 1}, {"model": "0"}, {"model": True}, {"model": [0]}, {"text": 3}]
    wrong += [{"text": "a" * 6000}, {"domain": None}, {"domain": "x"}, {"modifier": "x"}]
    for change in wrong:
        assert ask("POST", "/read", json.dumps({**SIDE, **change}), JSON)[0] == 400, change
    for request in ({}, {"sides": []}, {"sides": [SIDE] * 3}, {"sides": [1]}, {"sides": [SIDE]}):
        assert ask("POST", "/play", json.dumps(request), JSON)[0] == 400, request
    assert ask("POST", "/read", b"", {**JSON, "Content-Length": "-1"})[0] == 411


def test_uploads_are_read_by_the_one_rule_and_few_are_kept(ask, server, tmp_path, monkeypatch):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    keys = [ask("POST", "/upload?name=../a.png", data, BYTES)[1]["key"] for _ in range(KEPT + 1)]
    assert ask("GET", f"/image?side=20&key={keys[0]}")[0] == 400
    assert ask("GET", f"/image?side=20&key={keys[-1]}")[0] == 200
    file, name = server.playground.shelf.find(keys[-1])
    assert name == "a.png" and file.parent == tmp_path
    before = set(tmp_path.iterdir())
    for bad in (b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", data[:60]):
        status, answer = ask("POST", "/upload?name=b.png", bad, BYTES)
        assert status == 400 and answer["message"].startswith("b.png: cannot be read"), bad
        assert str(tmp_path) not in answer["message"]
    monkeypatch.setattr(local_server, "LARGEST", 1000)
    monkeypatch.setattr(local_server, "_DRAINED", 8000)
    assert ask("POST", "/upload?name=b.png", b"x" * 2000, BYTES)[0] == 413
    assert set(tmp_path.iterdir()) == before


def test_a_port_that_is_taken_and_wrong_options_end_in_a_message(server, segmentor, capsys):
    weights = ("app", "--weights", str(segmentor / "model_final.pth"))
    for options, message in (
        (("--port", str(server.server_port)), "cannot be used ([Errno 98] Address already in use)"),
        (("--port", "70000"), "--port 70000: expected 0 to 65535"),
        (("--second-config", "a.yaml"), "name the checkpoint with --second-weights"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*weights, *options])
        assert stop.value.code == 2 and message in capsys.readouterr().err


def test_the_command_serves_two_models_until_it_is_interrupted(segmentor, capsys, monkeypatch):
    seen = []

    def serve(server):
        seen.append((server.url, server.playground.setup()["models"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(local_server.LocalServer, "serve_forever", serve)
    weights = str(segmentor / "model_final.pth")
    main(["app", "--weights", weights, "--second-weights", weights, "--port", "0"])
    ((url, models),) = seen
    assert capsys.readouterr().out.startswith(f"{url} (Ctrl-C ends it)\n")
    assert [(m["name"], m["task"], m["modifier"]) for m in models] == [
        ("segmentor", "semantic", "simple")
    ] * 2
