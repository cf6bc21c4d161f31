"""No secret of the configuration comes out of an agent: whatever it meets, everything it writes is searched."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast.cli.client import ask
from anycast.config.kept import FILE as LAST_GOOD
from tests.unit.agent.test_main import Agent, free_port
from tests.unit.cli.test_node import cli

ROOT = Path(__file__).parents[3]
SECRET = "s3cr3t"  # in every secret, and nowhere else

CONFIG = """
node: {{name: lb1, interface: nowhere0, runtime_dir: {run}, state_dir: {state}, listen: "127.0.0.1:{port}"}}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000, password: bgp-s3cr3t{n}}}]
hooks:
  refused:
    url: "http://127.0.0.1:{server}/path-s3cr3t{n}?key=query-s3cr3t{n}"
    token_file: {files}/token
    secret_file: {files}/key
    headers: {{X-Key: header-s3cr3t{n}}}
    events: ["vip.*", "config.*", "maintenance.*"]
    retries: 0
  nobody:
    url: "http://127.0.0.1:{nobody}/path-s3cr3t{n}"
    token_env: HOOK_TOKEN
    secret_env: HOOK_KEY
    retries: 0
  trusted: {{url: "https://127.0.0.1:{server}/path-s3cr3t{n}", token_env: HOOK_TOKEN, retries: 0}}
  odd: {{url: "https://127.0.0.1:{server}/path-s3cr3t{n}", token_file: {files}/odd, retries: 0}}
  command: {{argv: [/bin/sh, -c, "echo no $0; exit 3", argument-s3cr3t{n}]}}
  slow: {{argv: [/bin/sh, -c, "echo $0; sleep 1000", argument-s3cr3t{n}], timeout: 200ms}}
checks:
  echo:
    type: http
    port: {server}
    headers: {{Authorization: "Bearer check-s3cr3t{n}"}}
    interval: 100ms
    fall: 1
  mute: {{type: https, port: {server}, verify: false, headers: {{Authorization: "Bearer check-s3cr3t{n}"}}, interval: 100ms}}
vips:
  web: {{address: 192.0.2.1, port: 80, check: echo, servers: [127.0.0.1]}}
  mail: {{address: 192.0.2.2, port: 25, check: mute, servers: [127.0.0.1]}}
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses, and gives back everything it was sent."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        text = " ".join([self.path, *self.headers.values()])
        self.rfile.read(length)
        self.send_response(500, text)
        self.send_header("X-Echo", text)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET  # noqa: N815 - as the library calls it

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def echo() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # no TLS: that is what is wanted
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _kept(path: Path) -> bool:
    """The configuration as it was written, for the agent alone."""
    return path.name == LAST_GOOD and stat.S_IMODE(path.stat().st_mode) == 0o600


class Site:
    def __init__(self, directory: Path, server: int) -> None:
        self.directory = directory
        self.file = directory / "anycast.yaml"
        self.files = directory / "secrets"
        self.files.mkdir()
        (self.files / "token").write_text("token-s3cr3t\n")
        (self.files / "key").write_text("key-s3cr3t\n")
        (self.files / "odd").write_text("two words-s3cr3t\n")
        self.port, self.nobody, self.server = free_port(), free_port(), server
        self.environment = {**os.environ, "HOOK_TOKEN": "token-s3cr3t", "HOOK_KEY": "key-s3cr3t"}
        self.said: list[tuple[str, str]] = []  # where, and what

    def write(self, number: int, old: str = "", new: str = "") -> None:
        text = CONFIG.format(
            run=self.directory / "run",
            state=self.directory / "state",
            files=self.files,
            port=self.port,
            nobody=self.nobody,
            server=self.server,
            n=number,
        )
        assert old in text
        self.file.write_text(text.replace(old, new, 1) if old else text)

    def fork(self, *argv: str) -> str:
        """As `run`, without a start of Python: while no agent asks the server here, whose threads wait for work."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            done = asyncio.run(cli(*argv))
        self.said.append((" ".join(argv[:2]), done.out + done.err))
        return done.out + done.err

    def run(self, *argv: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anycast", *argv],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said.append((" ".join(argv[:2]), done.stdout + done.stderr))
        return done.stdout + done.stderr

    def get(self, path: str, accept: str = "application/json") -> None:
        answer = subprocess.run(
            [
                "curl", "--silent", "--max-time", "30", "--header", f"Accept: {accept}",
                "--unix-socket", str(self.directory / "run" / "control.sock"), f"http://node{path}",
            ],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert answer.stdout
        self.said.append((f"{path} as {accept}", answer.stdout))

    def leaks(self) -> list[str]:
        """Every line with a secret, with the place where it was found."""
        files = [
            (str(path), path.read_text("utf-8", "replace"))
            for path in self.directory.rglob("*")
            if path.is_file() and path != self.file and path.parent != self.files and not _kept(path)
        ]
        return [
            f"{where}: {line}"
            for where, text in (*self.said, *files)
            for line in text.splitlines()
            if SECRET in line
        ]


WRONG = [
    # What is beside the secret is wrong, or the secret itself.
    ("remote_as: 65000", "remote_as: x"),
    ("password: bgp-s3cr3t2", 'password: "bgp s3cr3t"'),
    ("password: bgp-s3cr3t2", "password: [bgp-s3cr3t]"),
    ("password: bgp-s3cr3t2", "passwort: bgp-s3cr3t"),
    ("password: bgp-s3cr3t2", "password: bgp-s3cr3t: x"),
    ("password: bgp-s3cr3t2", 'password: "bgp-s3cr3t'),
    ("password: bgp-s3cr3t2", "password: bgp-s3cr3t, password: other-s3cr3t"),
    ("X-Key: header-s3cr3t2", 'X-Key: "header-s3cr3t\\n"'),
    ("X-Key: header-s3cr3t2", "X-Key: [header-s3cr3t]"),
    ("{X-Key: header-s3cr3t2}", "header-s3cr3t"),
    ("http://127.0.0.1", "http://user:url-s3cr3t@127.0.0.1"),
    ("http://127.0.0.1", "gopher://127.0.0.1"),
    ("path-s3cr3t2?", "path s3cr3t?"),
    ("argument-s3cr3t2", '"argument-s3cr3t\\0"'),
    ('argv: [/bin/sh, -c, "echo no $0; exit 3", argument-s3cr3t2]', "argv: bin/sh argument-s3cr3t"),
    ("Bearer check-s3cr3t2", "Bearer check-s3cr3t\\t"),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_a_file_that_is_wrong_is_explained_without_its_secrets(
    tmp_path: Path, right: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from anycast.cli.main import main

    site = Site(tmp_path, 1)
    site.write(2, right, wrong)
    assert main(["check", str(site.file)]) == 78
    assert main(["check", str(site.file), "--json"]) == 78
    said = capsys.readouterr()
    assert "problem" in said.err
    assert SECRET not in said.err + said.out


def test_nothing_that_is_written_holds_a_secret(tmp_path: Path) -> None:
    with echo() as server:
        site = Site(tmp_path, server)
        site.write(1)
        site.fork("check", str(site.file))
        site.fork("check", str(site.file), "--json")
        for hook in ("refused", "nobody", "trusted", "odd", "command"):
            assert f"hook {hook}: " in site.fork("hook", "test", hook, "--config", str(site.file))
        site.fork("hook", "test", "refused", "--json", "--config", str(site.file))
        for name in ("echo", "mute"):
            where = ("--at", f"127.0.0.1:{server}", "--config", str(site.file))
            site.fork("probe", name, *where)
            site.fork("probe", name, *where, "--json")
        log = _live(site)
        site.said.append(("the log", log))
        assert site.leaks() == []
    # That it was all there to be told.
    for what in ("server.down", "hook.failed", "config.applied", "config.rejected", "agent.stopped"):
        assert f'"{what}"' in log, what
    assert sum(name.startswith("recording") for name in os.listdir(tmp_path)) == 1
    assert "sha256:" in (tmp_path / "recording.jsonl").read_text()


def _live(site: Site) -> str:
    """An agent that has everything happen to it; its log."""
    argv = ["agent", "--config", str(site.file), "--record", str(site.directory / "recording.jsonl")]
    with subprocess.Popen(
        [sys.executable, "-m", "anycast", *argv],
        cwd=ROOT,
        env=site.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            agent = Agent(process, site.directory, site.port)
            agent.until("server.down")
            # Hooks may have failed before: of a failure that goes on nothing is said again.
            failing = {event["hook"] for event in agent.events if event["event"] == "hook.failed"}
            while failing < {"refused", "nobody", "trusted", "odd", "command", "slow"}:
                failing.add(agent.until("hook.failed")["hook"])
            socket = ("--socket", str(site.directory / "run" / "control.sock"))
            site.write(2)
            site.run("reload", *socket)
            agent.until("config.applied")
            site.write(2, *WRONG[1])
            site.run("reload", *socket)
            agent.until("config.rejected")
            site.run("status", *socket)
            site.run("why", "web", *socket)
            site.run("events", *socket)
            for path in ("/status", "/metrics", "/vips/web/why", "/events", "/openapi.json", "/readyz"):
                site.get(path)
                if path != "/events":  # as text, that has no end
                    site.get(path, "text/plain")
            assert ask(site.directory / "run" / "control.sock", "GET", "/livez").ok
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            rest = process.stderr.read()
            process.wait()
        finally:
            process.kill()
    return "\n".join(json.dumps(event) for event in agent.events) + "\n" + rest
