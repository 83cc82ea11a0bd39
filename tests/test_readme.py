"""The README's commands and code, as a stranger would use them."""

import re
import subprocess
import sys
from pathlib import Path

from synthagent.demo import processes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs_against_real_services(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    database = {"SYNTHAGENT_DATABASE_URL": f"sqlite:///{tmp_path}/readme.db"}
    with processes.services(tmp_path, database) as address:
        script = tmp_path / "readme.py"
        script.write_text(code.replace("127.0.0.1:50051", address))
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=100, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "5 ended, mean reward 1.0"


def test_every_verb_that_the_readme_names_exists() -> None:
    verbs = set(re.findall(r"\bmake ([a-z-]+)", README))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert verbs
    assert verbs <= known


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
