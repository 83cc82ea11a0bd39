"""What we depend on: known vulnerabilities, licences, and a bill of materials. `make audit`.

The tools have an environment of their own, `.venv-audit`. Licences are those that the packages of
this environment declare, held against `licences.toml`; vulnerabilities are asked for every version
of constraints.txt, which needs the network. Exits with 1 where something was found, with 3 where
--strict is given and not everything could be checked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

_ROOT = Path(__file__).parents[2]
_TOOLS = _ROOT / ".venv-audit/bin"
_CONSTRAINTS = _ROOT / "constraints.txt"
_BILL = _ROOT / "build/sbom.json"
_FOUND, _NOT_CHECKED = 1, 3


@dataclass(frozen=True)
class Policy:
    """Which licences pass, by their SPDX names, and which packages do for another reason."""

    allowed: frozenset[str]
    names: Mapping[str, str]
    exceptions: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Policy:
        """That of the file."""
        data = tomllib.loads(path.read_text())
        return cls(frozenset(data["allowed"]), data["names"], data["exceptions"])

    def passes(self, licence: str) -> bool:
        """Whether a licence passes: all parts that are joined by AND, one of those by OR or ';'.

        A list with ';' is of classifiers, which do not say which it is.
        """
        if not licence or licence == "UNKNOWN":
            return False
        alternatives = re.split(r"; | OR ", _without_brackets(licence))
        return any(self._all_pass(each.strip()) for each in alternatives)

    def _all_pass(self, licence: str) -> bool:
        parts = [self.names.get(part.strip(), part.strip()) for part in licence.split(" AND ")]
        return all(part in self.allowed for part in parts)


def _without_brackets(licence: str) -> str:
    """`A AND (B OR C)` as `A AND B OR A AND C`; brackets that belong to a name stay."""
    found = re.fullmatch(r"(?P<first>[^()]+ AND )\((?P<rest>[^()]+ OR [^()]+)\)", licence)
    if found is None:
        return licence
    return " OR ".join(found["first"] + each for each in found["rest"].split(" OR "))


def refused_licences(packages: Sequence[Mapping[str, str]], policy: Policy) -> Iterator[str]:
    """A sentence for each package whose licence does not pass, and for exceptions without need."""
    needless = dict(policy.exceptions)
    for package in packages:
        name, licence = package["Name"].lower().replace("_", "-"), package["License"]
        if policy.passes(licence):
            continue
        if needless.pop(name, None) is None:
            yield f"{name} {package['Version']} has the licence {licence!r}"
    installed = {package["Name"].lower().replace("_", "-") for package in packages}
    for name in needless:
        if name in installed:
            yield f"{name} needs no exception any more"


@dataclass(frozen=True)
class Advisories:
    """What the database of advisories said: sentences of findings, and how many it knew."""

    findings: tuple[str, ...]
    known: int
    asked: int


def read_advisories(report: Mapping[str, Any]) -> Advisories:
    """The report of pip-audit, in which what the database does not know is skipped."""
    dependencies = report["dependencies"]
    findings = tuple(
        f"{each['name']} {each['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for each in dependencies
        for vulnerability in each.get("vulns", ())
    )
    known = sum("skip_reason" not in each for each in dependencies)
    return Advisories(findings, known, len(dependencies))


def _advisories() -> Advisories | None:
    """None where the database cannot be reached."""
    done = subprocess.run(
        [
            *(_TOOLS / "pip-audit", "--requirement", _CONSTRAINTS, "--no-deps", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off", "--timeout", "10"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return read_advisories(json.loads(done.stdout))
    except (json.JSONDecodeError, KeyError):
        return None


def _licences() -> list[Mapping[str, str]]:
    arguments = [f"--python={sys.executable}", "--format=json", "--from=mixed"]
    done = subprocess.run(
        [_TOOLS / "pip-licenses", *arguments], capture_output=True, text=True, check=True
    )
    packages: list[Mapping[str, str]] = json.loads(done.stdout)
    return packages


def _write_bill() -> None:
    _BILL.parent.mkdir(exist_ok=True)
    command: list[str | Path] = [_TOOLS / "cyclonedx-py", "environment", "--output-reproducible"]
    subprocess.run(
        [*command, "--pyproject", _ROOT / "pyproject.toml", "-o", _BILL, sys.executable],
        check=True,
        capture_output=True,
    )


def main(
    *,
    strict: Annotated[bool, typer.Option(help="Fail where not everything can be checked.")] = False,
) -> None:
    """Audits the dependencies."""
    packages = _licences()
    refused = list(refused_licences(packages, Policy.read(_ROOT / "licences.toml")))
    typer.echo(f"licences: {len(packages)} packages, {len(refused)} refused")
    _write_bill()
    typer.echo(f"bill of materials: {_BILL.relative_to(_ROOT)}")
    advisories = _advisories()
    unchecked = advisories is None or advisories.known < advisories.asked
    if advisories is None or not advisories.known:
        typer.echo(
            "vulnerabilities: NOT CHECKED. The database of advisories cannot be reached from here, "
            "or knows none of the packages; run `make audit` where the network is open."
        )
    else:
        typer.echo(
            f"vulnerabilities: {len(advisories.findings)} in {advisories.known} packages; "
            f"{advisories.asked - advisories.known} are not known to the database"
        )
    findings = [*refused, *(advisories.findings if advisories else ())]
    for finding in findings:
        typer.echo(f"  {finding}")
    if findings:
        raise typer.Exit(_FOUND)
    raise typer.Exit(_NOT_CHECKED if strict and unchecked else 0)


if __name__ == "__main__":
    typer.run(main)
