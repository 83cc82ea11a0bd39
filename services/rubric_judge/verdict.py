"""Verdicts on finished episodes.

Owns the choice of the reward preset and the rule that a fault of the judge is an invalid verdict,
never a number. What an episode is worth is the kernel's to say.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence

from synthagent.errors import InvalidInput
from synthagent.worlds.engine import WorldError, WorldImage
from synthagent.worlds.episode import Event, InvalidReason, Verdict
from synthagent.worlds.rewards import REWARD_PRESETS
from synthagent.worlds.rubric import judge
from synthagent.worlds.spec import Task

DEFAULT_PRESET = "paper"

_INLINE_EVENTS = 64
"""Logs up to this length are judged in about a millisecond; longer ones go to a thread."""


def choose_preset(name: str) -> str:
    """The preset of that name; the default where it is empty. Raises InvalidInput."""
    chosen = name or DEFAULT_PRESET
    if chosen not in REWARD_PRESETS:
        close = difflib.get_close_matches(chosen, REWARD_PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(
            f"There is no reward preset {chosen!r}; {hint}presets: {', '.join(REWARD_PRESETS)}.",
            field="reward_preset",
        )
    return chosen


async def reach_verdict(
    task: Task, image: WorldImage, events: Sequence[Event], preset: str
) -> Verdict:
    """The verdict on an episode; a judge that cannot judge gives an invalid one."""
    try:
        if len(events) <= _INLINE_EVENTS:
            return judge(task, image, events, preset)
        return await asyncio.to_thread(judge, task, image, events, preset)
    except WorldError as error:
        return Verdict(
            reward=None,
            invalid_reason=InvalidReason.JUDGE_FAULT,
            detail=f"The rubric cannot be evaluated: {error}.",
            reward_preset=preset,
        )
