"""A conversation as token ids: the backbone's own chat template around texts that stay texts.

In: messages with role and content. Out: token ids, ending where the assistant's turn begins.
The template is rendered with marks in place of the texts, and tokenised in pieces: its own control tokens are tokens,
while `<|im_end|>` in a message is nine characters.
Be careful: many templates strip the texts, so whether this one does is found out by rendering marks between spaces.
"""

import re
from collections.abc import Sequence

from jinja2.exceptions import TemplateError

from ..backbone import Backbone
from ..errors import InputError


def conversation_ids(backbone: Backbone, roles: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Token ids of a conversation.

    Args:
        backbone: whose template and tokenizer count.
        roles: of each message.
        texts: of each message, as `check_texts` has passed them.

    Raises:
        InputError: if the model has no chat template, or its template does not take this conversation.
    """
    if backbone.tokenizer.chat_template is None:
        raise InputError(f"{backbone.name} has no chat template; use /v1/completions")
    marks = [f"FORESAYTEXT{i:06d}X" for i in range(len(texts))]
    rendered = _render(backbone, roles, [f" {mark} " for mark in marks])
    strips = any(f" {mark} " not in rendered for mark in marks)
    if strips:
        rendered = _render(backbone, roles, marks)
    pieces = re.split(r"FORESAYTEXT(\d{6})X", rendered if strips else re.sub(r" (FORESAYTEXT\d{6}X) ", r"\1", rendered))
    if [int(number) for number in pieces[1::2]] != list(range(len(texts))):
        raise InputError(f"the chat template of {backbone.name} does not show each message once, in their order")
    contents = iter(backbone.tokenize([text.strip() if strips else text for text in texts]))
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        ids += next(contents) if i % 2 else backbone.control_ids(piece) if piece else []
    return ids


def _render(backbone: Backbone, roles: Sequence[str], texts: Sequence[str]) -> str:
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        return str(
            backbone.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
        )
    except TemplateError as error:
        raise InputError(f"the chat template of {backbone.name} does not take this conversation: {error}") from None
