"""Text to token ids: what a user's text may become, and what a template or the tokenizer puts around it.

In: a tokenizer, its chat templates, and the model's stop tokens. Out: token ids.
Be careful: a user's text is never parsed for control tokens. `<|im_end|>` in a query is nine characters of text, so a
query cannot end its own turn, and a passage cannot fake a special token.
"""

import json
import logging
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import BackboneError, InputError

logger = logging.getLogger(__name__)

RESERVED = re.compile(r"[<\[].*(reserved|unused)")
"""Names of tokens that their makers left for others to use, such as `<|reserved_special_token_7|>` or `<unused7>`."""
_SENTINEL = "FORESAYTEXT"
_REFUSALS = (TemplateError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What a template raises: its own refusals, its mistakes, and those of the code that it calls."""


def check_texts(texts: str | Sequence[str], what: str = "text") -> list[str]:
    """A list of texts that a tokenizer can take.

    Raises:
        InputError: for anything that is not a string, and for lone surrogates, with the position.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not hasattr(texts, "__iter__"):
        raise InputError(f"expected a string or a list of strings, found {type(texts).__name__}")
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            shown = " ".join(repr(text).split())
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            raise InputError(f"{what} {i} is {shown} ({type(text).__name__}); expected a string")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{what} {i} holds a lone surrogate at position {error.start}; "
                    "repair it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
                ) from None
    return checked


class Tokenizing:
    """The part of a `Backbone` that turns text into token ids."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    name: str

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokenizer for user text: a pickled one forgets to read control tokens as text."""
        return {name: value for name, value in self.__dict__.items() if name != "text_tokenizer"}

    @cached_property
    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer for user text: no token that the chat template or the model uses for control.

        `split_special_tokens` alone would leave the control tokens that are not marked special, such as
        Qwen3's `<think>`, so those are marked in this copy.
        """
        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        mark_control_tokens(spec, self._template_text())
        spec.update(post_processor=None, truncation=None, padding=None)
        copy: Tokenizer = Tokenizer.from_str(json.dumps(spec))
        copy.encode_special_tokens = True
        return copy

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone: no leading token, no template, no control tokens."""
        encodings = self.text_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def leading_ids(self) -> list[int]:
        """What the tokenizer itself puts before a text: a Llama or Gemma BOS, nothing for Qwen."""
        plain = self.tokenizer("a", add_special_tokens=False).input_ids
        full = self.tokenizer("a").input_ids
        starts = (i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain)
        return list(full[: next(starts, 0)])

    def frame(self, template: str) -> tuple[list[int], list[int]]:
        """Token ids before and after a text.

        Args:
            template: `none`: the tokenizer's own leading tokens and nothing after; `chat`: the user's turn
                and the header of the assistant's, thinking mode off.

        Raises:
            InputError: if `chat` is asked of a model without a chat template.
        """
        if template == "none":
            return self.leading_ids, []
        if not self.templates:
            raise InputError(f"{self.name} has no chat template; use --template none")
        before, behind = self._render([{"role": "user", "content": _SENTINEL}], add_generation_prompt=True)
        return self.control_ids(before), self.control_ids(behind)

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response: what the chat template writes after the assistant's turn."""
        fallback = self.tokenizer.eos_token_id
        if self.templates:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
            try:
                behind = self.control_ids(self._render(turns, add_generation_prompt=False)[1])
            except BackboneError as error:  # --template none has to work, whatever the template is
                logger.debug("%s", error)
                behind = []
            if behind and (behind[0] in self.stop_ids or fallback is None):
                return behind[0]
        if fallback is None:
            raise BackboneError(f"the tokenizer of {self.name} names no eos token; set eos_token in its config")
        return int(fallback)

    @property
    def generation_config(self) -> Any:  # noqa: ANN401 - transformers' configs are untyped
        """The model's own settings of generation."""
        return self.model.generation_config

    @cached_property
    def stop_ids(self) -> list[int]:
        """Every token that ends generation, by the model's own configuration and its tokenizer's."""
        stops = getattr(self.generation_config, "eos_token_id", None)
        listed = [stops] if isinstance(stops, int) else list(stops or [])
        own = self.tokenizer.eos_token_id
        return sorted({*listed, *([own] if own is not None else [])})

    @property
    def pad_id(self) -> int:
        """A token to pad with; pads are never attended to, so any will do."""
        pad = self.tokenizer.pad_token_id
        rows = self.model.get_input_embeddings().num_embeddings
        return int(pad if pad is not None and pad < rows else self.end_id)

    @property
    def templates(self) -> dict[str, str]:
        """The chat templates by name; one that has no name is the default. Empty where there is none."""
        found = self.tokenizer.chat_template
        return dict(found) if isinstance(found, dict) else {"default": found} if found else {}

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> tuple[str, str]:
        if "default" not in self.templates:
            raise BackboneError(
                f"{self.name} has the chat templates {', '.join(self.templates)} and none of them is the default; "
                "name one so in its tokenizer_config.json, or use --template none"
            )
        text = self.apply_template("default", turns, add_generation_prompt=add_generation_prompt, enable_thinking=False)
        before, found, behind = text.partition(_SENTINEL)
        if not found or _SENTINEL in behind:
            raise BackboneError(f"the chat template of {self.name} does not show each message once; use template none")
        return before, behind

    def apply_template(self, name: str, turns: list[dict[str, str]], **options: bool) -> str:
        """What the chat template of this name makes of a conversation.

        Raises:
            BackboneError: if it refuses the conversation, or has a mistake.
        """
        template = self.templates[name]
        try:
            return str(self.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options))
        except _REFUSALS as error:
            which = "chat template" if name == "default" else f"chat template {name!r}"
            where = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise BackboneError(
                f"the {which} of {self.name} fails on a conversation{where}: {error}; mend it in the model's "
                "chat_template.jinja or tokenizer_config.json; fit and train also take --template none"
            ) from error

    def _template_text(self) -> str:
        """All that any of the templates writes: their own text, and what they make of a conversation.

        Some put a control token together, as in `'<|' + role + '|>'`, so their text alone does not name it.
        """
        turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
        written = list(self.templates.values())
        for name in self.templates:
            for some in (turns, turns[1:]):  # not every template knows a system's turn
                for thinks in (True, False):
                    try:
                        written.append(
                            self.apply_template(name, some, add_generation_prompt=True, enable_thinking=thinks)
                        )
                    except BackboneError as error:
                        logger.debug("%s", error)
        return "\n".join(written)

    def control_ids(self, text: str) -> list[int]:
        """Token ids of a template's own text, in which control tokens are what they say."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


def mark_control_tokens(spec: dict[str, Any], templates: str) -> None:
    """Marks, in a tokenizer's JSON, the added tokens which no text may become as special.

    They are the ones that a chat template uses, and the reserved ones: special tokens may live in their rows.
    """
    for token in spec["added_tokens"]:
        name = token["content"]
        if RESERVED.match(name) or (not name.isspace() and name in templates):
            token["special"] = True
