"""The policy of a released item: the rule, and why it is there.

The form is "Tool X must NOT be used to Y. This restriction exists because Z ...". A text of another
form is kept whole: nothing of it is lost, and where it cannot be divided, it has no reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_REASON = "No reason is stated."
_REASON_STARTS = (
    re.compile(r"\s+(?=This (?:restriction|rule|limitation|policy|constraint)\b)"),
    re.compile(r"\s+(?=(?:The )?[Rr]eason(?: is)?\s*:?\s)"),
    re.compile(r"(?<=[.!?。！？])\s+"),  # noqa: RUF001 - full-width marks end sentences too
    re.compile(r"[,;:]?\s+(?=(?:because|since|in order to)\b)"),
)
_RESTRICTED = re.compile(r"\bTool\s+(?P<name>.{1,80}?)\s+must\s+not\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule and its reason (NO_REASON where none is stated); `tool`: whom it names, or empty."""

    rule: str
    reason: str
    tool: str = ""


def split_policy(text: str) -> Policy:
    """The rule and the reason of a policy text, in its own words."""
    whole = text.strip()
    found = _RESTRICTED.search(whole)
    tool = found["name"].strip(" []`*\"'") if found else ""
    for start in _REASON_STARTS:
        parts = start.split(whole, maxsplit=1)
        if len(parts) == 2 and parts[0].strip() and parts[1].strip():
            return Policy(parts[0].strip(), parts[1].strip(), tool)
    return Policy(whole, NO_REASON, tool)
