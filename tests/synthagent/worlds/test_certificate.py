import pytest

from synthagent.worlds.certificate import NotCertifiedError, verify
from synthagent.worlds.certify import admit
from tests.example_task import example_task


def test_verify_refuses_what_is_not_certified() -> None:
    task = admit(example_task())
    certificate = task.certificate
    assert certificate is not None
    with pytest.raises(NotCertifiedError, match="has no certificate"):
        verify(example_task())
    with pytest.raises(NotCertifiedError, match="was changed"):
        verify(task.model_copy(update={"instruction": "Book any court."}))
    for change, says in (
        ({"gates": certificate.gates[:-1]}, "did not pass"),
        ({"gates": certificate.gates[::-1]}, "did not pass"),
        ({"engine_version": "0"}, "by engine 0"),
        ({"task_digest": "0" * 64}, "was changed"),
    ):
        other = certificate.model_copy(update=change)
        with pytest.raises(NotCertifiedError, match=says):
            verify(task.model_copy(update={"certificate": other}))
