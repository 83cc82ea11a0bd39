"""What the detail of an INVALID verdict tells of the error behind it."""

import pytest

from synthagent import errors


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (errors.BackendUnavailable("The port is closed."), True),
        (errors.ModelUnavailable("The server gave 503."), True),
        (errors.ModelMalformed("The answer is no JSON."), False),
        (errors.Corrupt("BACKEND_UNAVAILABLE: is only a text."), False),
    ],
)
def test_an_outage_is_known_by_its_detail(error: errors.SynthAgentError, *, outage: bool) -> None:
    detail = errors.as_detail(error)
    assert detail.endswith(error.message)
    assert errors.is_outage(detail) is outage


def test_other_details_tell_of_no_outage() -> None:
    assert not errors.is_outage("")
    assert not errors.is_outage("The user invented a fact.")
