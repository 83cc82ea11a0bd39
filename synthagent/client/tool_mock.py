"""The methods of ToolMock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.client.calling import Calling
from synthagent.convert import tool_result_from_proto
from synthagent.session_streams import SessionStreams
from synthagent.tool_session import RecordedCall, ToolSession, recorded_call_to_proto
from synthagent.worlds.episode import ToolResult


class ToolMockMethods(Calling):
    """Calls tools, in sessions or one by one."""

    _tools: tool_pb2_grpc.ToolMockAsyncStub
    _tool_timeout: float
    _session_streams: SessionStreams

    async def call_tool(
        self, task_id: str, tool: str, arguments: str, history: Sequence[RecordedCall] = ()
    ) -> ToolResult:
        """One call in a fresh session after replaying `history`."""
        request = tool_pb2.CallToolRequest(
            task_id=task_id,
            history=[recorded_call_to_proto(call) for call in history],
            tool=tool,
            arguments_json=arguments,
        )
        response = await self._unary(self._tools.CallTool, request, self._tool_timeout)
        return tool_result_from_proto(response.result, "result")

    async def open_session(
        self,
        task_id: str,
        history: Sequence[RecordedCall] = (),
        expected_state_hash: str = "",
    ) -> ToolSession:
        """A tool session, open. Raises NotFound, Uncertified, StateDiverged, LimitExceeded."""
        session = ToolSession(
            self._session_streams,
            task_id,
            history,
            expected_state_hash,
            call_timeout=self._tool_timeout,
        )
        await session.open()
        return session

    async def list_ledger_entries(self, task_id: str) -> AsyncIterator[tool_pb2.LedgerEntry]:
        """All entries of a task's ledger in order of writing, page by page. Raises NotFound."""
        request = tool_pb2.ListLedgerEntriesRequest(task_id=task_id, page_size=1000)
        async for page in self._pages(self._tools.ListLedgerEntries, request):
            for entry in page.entries:
                yield entry
