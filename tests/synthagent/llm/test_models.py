import subprocess
import sys

import pytest

from synthagent.errors import PreconditionFailed
from synthagent.llm import ROLES, Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import load_settings
from synthagent.store import Store


async def test_each_configured_role_has_its_model(database_url: str) -> None:
    store = Store(database_url)
    tool = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    models = Models(load_settings(tool=tool, user=tool), store, ServerMetrics())
    assert models.role("tool") is models.need("tool")
    assert models.role("tool") is not models.role("user")
    assert models.role("judge") is None
    with pytest.raises(PreconditionFailed, match="SYNTHAGENT_JUDGE__BASE_URL"):
        models.need("judge")
    await models.close()
    await store.close()


def test_the_roles_are_those_of_the_settings() -> None:
    assert all(getattr(load_settings(), role) is None for role in ROLES)


def test_without_a_role_the_client_library_is_not_loaded(database_url: str) -> None:
    program = (
        "import sys; from synthagent.server import Models, ServerMetrics, Store; "
        "from synthagent.settings import load_settings; "
        "Models(load_settings(), Store(sys.argv[1]), ServerMetrics()); "
        "print('openai' in sys.modules)"
    )
    command = [sys.executable, "-c", program, database_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "False\n"
