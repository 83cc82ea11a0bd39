"""The policy of licences, and how reports of advisories are read."""

from pathlib import Path

import pytest

from tests.audit.__main__ import Policy, read_advisories, refused_licences

POLICY = Policy.read(Path("licences.toml"))


@pytest.mark.parametrize(
    ("licence", "passes"),
    [
        ("MIT", True),
        ("MIT License", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("Apache-2.0 AND GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only AND (Apache-2.0 OR MIT)", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("DFSG approved; MIT License", True),
        ("GPL-3.0", False),
        ("AGPL-3.0-or-later", False),
        ("Proprietary", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_a_licence_passes_or_not(licence: str, *, passes: bool) -> None:
    assert POLICY.passes(licence) is passes


def test_an_exception_covers_its_package_only_and_only_while_it_is_needed() -> None:
    packages = [
        {"Name": "psycopg_binary", "Version": "1", "License": "LGPL-3.0-only"},
        {"Name": "other", "Version": "2", "License": "LGPL-3.0-only"},
        {"Name": "atheris", "Version": "3", "License": "Apache-2.0"},
    ]
    assert list(refused_licences(packages, POLICY)) == [
        "other 2 has the licence 'LGPL-3.0-only'",
        "atheris needs no exception any more",
    ]


def test_what_the_database_does_not_know_is_not_counted_as_checked() -> None:
    advisories = read_advisories(
        {
            "dependencies": [
                {"name": "a", "version": "1", "vulns": []},
                {"name": "b", "skip_reason": "not found"},
                {
                    "name": "c",
                    "version": "2",
                    "vulns": [{"id": "CVE-1", "fix_versions": ["2.1", "3"]}],
                },
            ]
        }
    )
    assert (advisories.known, advisories.asked) == (2, 3)
    assert advisories.findings == ("c 2: CVE-1, mended in 2.1, 3",)
