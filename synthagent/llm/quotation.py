"""Text of others in a prompt: data that can neither leave its place nor pass for words of ours.

A value is quoted as JSON on one line, so that no text ends its string or its line; and the parts
that mean something to a chat template, or hide what is read, are written as JSON escapes. A fence,
the line before and after several quoted lines, holds a digest of what it encloses: a text would
have to contain the digest of itself to forge one. Where a text must stay as it is (the turns of a
chat), at least no control token of a chat template stays one. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re

from pydantic import JsonValue

_RISKY = re.compile(
    r"[<>`]"  # tags, fences and the tokens of most chat templates
    r"|\[(?=/?[a-z_]*[A-Z][A-Za-z_]*\])"  # [INST], [gMASK] and their like, tokens of others
    r"|[^ -~\n\t]"
)
_CONTROL_TOKEN = re.compile(
    r"<(?=[|\uff5c]|/?s>|<?/?SYS>|/?(?:bos|eos|pad|unk|mask|sep|cls|(?:start|end)_of_\w+)>)"
    r"|\[(?=/?[a-z_]*[A-Z][A-Za-z_]*\])"
)
_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Fillers and selectors that count as printable and show nothing."""


def quoted(value: JsonValue) -> str:
    """A value as JSON on one line that reads back as the same value, with risky parts escaped.

    Risky is what is invisible, reorders what is read, or means something to a chat template.
    Lookalikes of other letters stay as they are: inside a string they can end nothing. Only a lone
    surrogate does not come back: no encoding of text can hold it, and it becomes "?".
    """
    # json, because it also writes integers of any length, as models like to invent them
    text = json.dumps(_encodable(value), ensure_ascii=False, separators=(",", ":"))
    return _RISKY.sub(_escape, text)


def escaped(text: str) -> str:
    """The text with risky parts as JSON escapes, line breaks kept: JSON stays the same JSON.

    For text that is JSON already, and for a model's own words that are shown to it again.
    """
    return _RISKY.sub(_escape, _encodable_text(text))


def spelled_out(text: str) -> str:
    """The text with the control tokens of chat templates as characters that are no such token.

    For a turn of a chat, which no quotation surrounds: `<|im_end|>` in it ends no turn. All else
    stays, tags as well.
    """
    return _CONTROL_TOKEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character not in "<>`[" and character.isprintable() and not _INVISIBLE.match(character):
        return character
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _encodable(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _encodable_text(value)
    if isinstance(value, list):
        return [_encodable(part) for part in value]
    if isinstance(value, dict):
        return {_encodable_text(key): _encodable(part) for key, part in value.items()}
    return value


def _encodable_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def fence(text: str) -> str:
    """A line that no part of the text holds: a digest of all of it."""
    return f"----- {hashlib.sha256(text.encode()).hexdigest()[:24]} -----"
