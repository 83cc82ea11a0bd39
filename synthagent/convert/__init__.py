"""Between protobuf messages and the kernel's values, both ways; the only place that does it.

`X_to_proto` never fails on a valid value. `X_from_proto` refuses what the contract refuses: an
unspecified enum, a missing part, text that is no JSON, a value out of range. It raises InvalidInput
with the path of the field as a caller knows it (`task.world.tools[2].input_schema_json`).
"""

from synthagent.convert.judgement import (
    criterion_judgement_from_proto,
    criterion_judgement_to_proto,
)
from synthagent.convert.parts import build, message_of, timestamp
from synthagent.convert.task import (
    GATE,
    SPLIT,
    certificate_from_proto,
    persona_from_proto,
    persona_to_proto,
    split_from_proto,
    split_to_proto,
    task_from_proto,
    task_to_proto,
)
from synthagent.convert.trajectory import (
    INVALID_REASON,
    OUTCOME,
    criterion_result_from_proto,
    criterion_result_to_proto,
    event_from_proto,
    event_to_proto,
    events_from_proto,
    sampling_from_proto,
    sampling_to_proto,
    segment_from_proto,
    segment_to_proto,
    tool_result_from_proto,
    tool_result_to_proto,
    user_reply_from_proto,
    user_reply_to_proto,
    verdict_from_proto,
    verdict_to_proto,
)

__all__ = [
    "GATE",
    "INVALID_REASON",
    "OUTCOME",
    "SPLIT",
    "build",
    "certificate_from_proto",
    "criterion_judgement_from_proto",
    "criterion_judgement_to_proto",
    "criterion_result_from_proto",
    "criterion_result_to_proto",
    "event_from_proto",
    "event_to_proto",
    "events_from_proto",
    "message_of",
    "persona_from_proto",
    "persona_to_proto",
    "sampling_from_proto",
    "sampling_to_proto",
    "segment_from_proto",
    "segment_to_proto",
    "split_from_proto",
    "split_to_proto",
    "task_from_proto",
    "task_to_proto",
    "timestamp",
    "tool_result_from_proto",
    "tool_result_to_proto",
    "user_reply_from_proto",
    "user_reply_to_proto",
    "verdict_from_proto",
    "verdict_to_proto",
]
