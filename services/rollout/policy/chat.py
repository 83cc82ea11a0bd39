"""A model's chat format as token ids: prompts, observations, demonstrations.

Owns the way between text and token ids. Immutable once loaded; needs `tokenizers` and a template
engine, no torch. Everything is derived by rendering the tokenizer's own chat template with
placeholders, so other models work as they are.

Invariant: control tokens come from the template only. Text from users, tools or tasks is encoded
with control tokens spelled out as plain characters, so `<|im_end|>` inside a tool result ends no
turn. Where a text holds no such spelling, the ids equal those of the template rendered as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from synthagent.errors import InvalidInput

STOP_STRINGS = ("</tool_call>", "</answer>")
"""Texts after which a turn is over: the rest would be talk beyond a call or an answer."""

_STOP_TAIL = 24
"""Tokens decoded to look for a stop string; more than any spelling of one."""


def _mark(name: str) -> str:
    # Private-use characters: no template contains, trims or splits them.
    return f"\ue0b1{name}\ue0b2"


_MARK = re.compile("\ue0b1([a-z]+)\ue0b2")


class ChatFormat:
    """Renders conversations as token ids and back."""

    def __init__(self, tokenizer: Tokenizer, template: str, variables: Mapping[str, str]) -> None:
        self.tokenizer = tokenizer
        self._variables = dict(variables)
        self._specials = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise_template_error
        self._template = environment.from_string(template)
        # From here on, the spelling of a control token in a text is text.
        tokenizer.encode_special_tokens = True
        self._prompt = self._pieces(["system", "user"])
        self._after = {role: self._after_turn(role) for role in ("user", "tool")}
        first = self._after["user"][0]
        if not self._special.fullmatch(first):
            raise InvalidInput(
                f"the chat template closes an assistant's turn with {first!r}, "
                "which is no special token of the tokenizer"
            )
        self.end_of_turn_id: int = self._specials[first]
        self.vocabulary: int = tokenizer.get_vocab_size()
        """Token ids are below this."""

    @classmethod
    def load(cls, folder: Path) -> ChatFormat:
        """Reads the tokenizer and chat template of a model folder.

        Raises InvalidInput where the folder has no tokenizer or chat template.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidInput(f"{folder} has no tokenizer.json")
        config_path = folder / "tokenizer_config.json"
        config: dict[str, Any] = (
            json.loads(config_path.read_text()) if config_path.is_file() else {}
        )
        template_path = folder / "chat_template.jinja"
        template = (
            template_path.read_text() if template_path.is_file() else config.get("chat_template")
        )
        if not isinstance(template, str):
            raise InvalidInput(f"{folder} has no chat template; use an instruction-tuned model")
        return cls(Tokenizer.from_file(str(path)), template, _token_variables(config))

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end a turn: end-of-turn, and end-of-sequence where that is another one."""
        eos = self._specials.get(self._variables.get("eos_token", ""))
        return frozenset({self.end_of_turn_id} | ({eos} if eos is not None else set()))

    def prompt_ids(self, system: str, user: str) -> list[int]:
        """Ids of a conversation's start up to where the assistant begins to speak."""
        return self._encode(self._prompt, {"system": system, "user": user})

    def observation_ids(self, role: str, content: str, *, turn_ended: bool) -> list[int]:
        """Ids of what stands between two turns of the assistant, up to where it speaks again.

        `role` is "user" or "tool". `turn_ended` says that the assistant closed its own turn (see
        `ends_turn`); otherwise the end-of-turn token comes first here, as an observation.
        """
        if role not in self._after:
            raise InvalidInput(f"an observation comes from a user or a tool, not {role!r}")
        pieces = self._after[role]
        return self._encode(pieces[1:] if turn_ended else pieces, {"content": content})

    def render_turn(self, text: str) -> list[int]:
        """Ids of an assistant's turn with its end-of-turn token, for demonstrations."""
        return [*self._encode_text(text), self.end_of_turn_id]

    def ends_turn(self, token_ids: Sequence[int]) -> bool:
        """Whether a generated turn closed itself with the end-of-turn token."""
        return bool(token_ids) and token_ids[-1] == self.end_of_turn_id

    def stops(self, token_ids: Sequence[int]) -> bool:
        """Whether a turn being generated is over after its last token. Cheap enough per token."""
        if not token_ids:
            return False
        last = token_ids[-1]
        if last in self.stop_token_ids:
            return True
        if last not in self._may_close:
            return False
        tail = self.decode(token_ids[-_STOP_TAIL:])
        return any(stop in tail for stop in STOP_STRINGS)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without control tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @cached_property
    def _may_close(self) -> frozenset[int]:
        return frozenset(
            token_id for token, token_id in self.tokenizer.get_vocab().items() if ">" in token
        )

    def _render(self, roles: Sequence[str], *, content_of: Mapping[int, str] | None = None) -> str:
        contents = content_of or {}
        messages = [
            {"role": role, "content": contents.get(index, _mark(role))}
            for index, role in enumerate(roles)
        ]
        return self._template.render(
            messages=messages, add_generation_prompt=True, **self._variables
        )

    def _pieces(self, roles: Sequence[str]) -> list[str]:
        """The template rendered for these roles, cut at control tokens and placeholders."""
        try:
            rendered = self._render(roles)
        except jinja2.TemplateError as error:
            raise InvalidInput(
                f"the chat template refuses the roles {', '.join(roles)}: {error}"
            ) from error
        for role in roles:
            if _mark(role) not in rendered:
                raise InvalidInput(f"the chat template drops the content of role {role!r}")
        return self._cut(rendered)

    def _after_turn(self, role: str) -> list[str]:
        """What the template puts after an assistant's turn when `role` speaks next.

        Templates that refuse a tool, or drop what it says, get its result as a user's message
        between <tool_response> tags.
        """
        before = ["system", "user", "assistant"]
        content = _mark("content")
        try:
            rendered = self._render([*before, role], content_of={3: content})
        except jinja2.TemplateError:
            rendered = ""
        if content not in rendered:
            if role == "user":
                raise InvalidInput("the chat template refuses a user after an assistant")
            wrapped = f"<tool_response>\n{content}\n</tool_response>"
            rendered = self._render([*before, "user"], content_of={3: wrapped})
        _, turn, rest = rendered.partition(_mark("assistant"))
        if not turn:
            raise InvalidInput("the chat template drops the assistant's earlier turns")
        return self._cut(rest)

    def _cut(self, rendered: str) -> list[str]:
        parts = re.split(f"{self._special.pattern}|({_MARK.pattern.replace('(', '(?:')})", rendered)
        return [part for part in parts if part]

    def _encode(self, pieces: Sequence[str], contents: Mapping[str, str]) -> list[int]:
        """Encodes pieces; text between two control tokens is encoded in one go."""
        ids: list[int] = []
        text: list[str] = []
        for piece in pieces:
            if piece in self._specials:
                ids += self._encode_text("".join(text))
                ids.append(self._specials[piece])
                text.clear()
            elif mark := _MARK.fullmatch(piece):
                text.append(contents[mark[1]])
            else:
                text.append(piece)
        return ids + self._encode_text("".join(text))

    def _encode_text(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids) if text else []


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _token_variables(config: Mapping[str, Any]) -> dict[str, str]:
    """Named tokens (bos_token, eos_token, ...) as templates expect them."""
    variables = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                variables[name] = text
    return variables
