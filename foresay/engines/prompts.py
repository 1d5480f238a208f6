"""Queries to the token ids that a backbone continues: its chat template, and a system prompt if one is given.

In: a tokenizer, inside a `Backbone` or a `TextSide`. Out: ids. Both texts, the query's and the system prompt's, are
text: no string in them becomes a control token.
"""

from collections.abc import Sequence

from ..backbone import Backbone
from ..errors import BackboneError, InputError
from .text_side import TextSide

_SYSTEM, _USER = "FORESAYSYSTEM", "FORESAYTEXT"


class Prompter:
    """Turns queries into prompts of at most `limit` tokens for the query itself."""

    def __init__(
        self,
        backbone: Backbone | TextSide,
        system: str,
        most_query_tokens: int,
        room: int,
        *,
        positions: int | None = None,
    ) -> None:
        """Works out the template and the longest query.

        Args:
            backbone: whose template and tokenizer.
            system: the system prompt, or nothing.
            most_query_tokens: longer queries are refused.
            room: tokens to leave free for the response.
            positions: longest sequence; the model's own, if it is not given.

        Raises:
            InputError: if the template takes no system prompt, or no query fits.
        """
        self.backbone = backbone
        self.template = "chat" if backbone.tokenizer.chat_template else "none"
        self.prefix, self.suffix = _with_system(backbone, system) if system else backbone.frame(self.template)
        positions = positions or backbone.max_positions
        left = positions - len(self.prefix) - len(self.suffix) - room
        if left < 1:
            raise InputError(
                f"max_new_tokens is {room}, which leaves no room for a query in the {positions} positions "
                f"of {backbone.name}; lower max_new_tokens"
            )
        self.limit = min(most_query_tokens, left)

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """For each query why it is too long, or None."""
        counts = map(len, self.backbone.tokenize(texts))
        return [f"the query has {n} tokens; the limit is {self.limit}" if n > self.limit else None for n in counts]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each query, template included."""
        return [[*self.prefix, *ids, *self.suffix] for ids in self.backbone.tokenize(texts)]


def _with_system(backbone: Backbone | TextSide, system: str) -> tuple[list[int], list[int]]:
    """Token ids before and after a query, the system prompt before it."""
    if not backbone.tokenizer.chat_template:
        raise InputError(f"{backbone.name} has no chat template, and so no system prompt; leave --system out")
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        text = backbone.apply_template("default", turns, add_generation_prompt=True, enable_thinking=False)
    except BackboneError as error:
        backbone.frame("chat")  # if it fails without a system prompt too, that is what to say
        raise InputError(f"the chat template of {backbone.name} takes no system prompt ({error.__cause__})") from error
    first, found, rest = text.partition(_SYSTEM)
    middle, found_too, last = rest.partition(_USER)
    if not found or not found_too:
        raise InputError(f"the chat template of {backbone.name} does not show a system prompt; leave --system out")
    (ids,) = backbone.tokenize([system])
    return [*backbone.control_ids(first), *ids, *backbone.control_ids(middle)], backbone.control_ids(last)
