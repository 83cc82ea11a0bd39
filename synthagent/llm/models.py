"""The models of a process: one `LanguageModel` for each role that the settings configure.

Created once, closed once. The client library is imported only where a role is configured, so that a
process without models needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from synthagent.errors import PreconditionFailed
from synthagent.llm.language_model import LanguageModel
from synthagent.metrics import ServerMetrics
from synthagent.settings import ModelRole, Settings
from synthagent.store import Store

if TYPE_CHECKING:
    from synthagent.llm.connection import Connection

RoleName = Literal["teacher", "tool", "user", "judge"]
ROLES: tuple[RoleName, ...] = ("teacher", "tool", "user", "judge")


class Models:
    """Gives each role its model. Belongs to one event loop."""

    def __init__(self, settings: Settings, store: Store, metrics: ServerMetrics) -> None:
        self._connections: list[Connection] = []
        self._models: dict[RoleName, LanguageModel] = {}
        for name in ROLES:
            role: ModelRole | None = getattr(settings, name)
            if role is not None:
                self._add(name, role, store, metrics)

    def _add(self, name: RoleName, role: ModelRole, store: Store, metrics: ServerMetrics) -> None:
        try:
            from synthagent.llm.connection import Connection  # noqa: PLC0415 - see the module's text
        except ModuleNotFoundError as error:
            raise PreconditionFailed(
                f"The {name} model needs the package {error.name}; install synthagent[services]."
            ) from error
        connection = Connection(name, role, metrics)
        self._connections.append(connection)
        self._models[name] = LanguageModel(name, role, connection, store, metrics)

    def role(self, name: RoleName) -> LanguageModel | None:
        """The model of a role; None where none is configured."""
        return self._models.get(name)

    def need(self, name: RoleName) -> LanguageModel:
        """The model of a role. Raises PreconditionFailed where none is configured."""
        model = self._models.get(name)
        if model is None:
            variable = f"SYNTHAGENT_{name.upper()}__"
            raise PreconditionFailed(
                f"This needs a {name} model, and none is configured; set {variable}BASE_URL and "
                f"{variable}MODEL to those of an OpenAI-compatible server, and start again."
            )
        return model

    async def close(self) -> None:
        """Ends the connections to the servers."""
        for connection in self._connections:
            await connection.close()
