"""The Dockerfile: hadolint, and what hadolint does not know of: pinned, non-root, reproducible."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manifests.objects import ROOT, built, is_ours

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def linted(text: str) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_hadolint_finds_nothing() -> None:
    assert linted(DOCKERFILE) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"@sha256:\w+", "", "DL3006"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("USER 10001:10001\nEXPOSE", "USER root\nEXPOSE", "DL3002"),
    ],
)
def test_hadolint_finds_mistakes(old: str, new: str, rule: str) -> None:
    text = re.sub(old, new, DOCKERFILE)
    assert text != DOCKERFILE
    if rule == "DL3006":
        text = text.replace("ARG PYTHON_IMAGE=python:3.11-slim-bookworm", "").replace(
            "${PYTHON_IMAGE}", "python"
        )
    code, found = linted(text)
    assert code == 1
    assert rule in found


def test_the_base_is_named_by_digest_and_every_stage_builds_on_it() -> None:
    assert re.search(
        r"^ARG PYTHON_IMAGE=python:3\.\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE
    )
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == DOCKERFILE.count("\nFROM ")
    names = {"${PYTHON_IMAGE}", *(name for _, name in stages)}
    assert {source for source, _ in stages} <= names


def test_both_images_run_as_the_user_of_the_manifests() -> None:
    users = {
        pod.spec["securityContext"]["runAsUser"]
        for pod in built("production").pods()
        if is_ours(pod.containers[0])
    }
    assert users == {10001}
    for target in ("trainer", "services"):
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "\nUSER 10001:10001\n" in stage


def test_every_package_is_pinned() -> None:
    assert "PIP_CONSTRAINT=/src/constraints.txt" in DOCKERFILE
    pinned = {
        re.split(r"[=@]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert {"hatchling", "psycopg-binary", "torch", "deepspeed", "tokenizers"} <= pinned
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or "==" in line, line
