"""Texts of a request as payloads of a lane: whose prompt, how many tokens, what is cut.

In: texts or token ids, and what the request says of them. Out: a `Prepared`.
Be careful: a document may be the teacher's to embed, which takes texts and has a longest input of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..backbone import check_texts
from ..errors import InputError
from ..prompts import some_names
from .checkpoints import Served
from .engine.lanes import Lane
from .errors import ApiError

_SIDES = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "search_document": "document",
    "passage": "document",
    "retrieval.passage": "document",
}


@dataclass(frozen=True)
class Prepared:
    """Texts, ready to be run.

    Attributes:
        lane: what they run through.
        payloads: rows of token ids, or texts.
        tokens: of each, special tokens included.
        cut: which were too long.
    """

    lane: Lane
    payloads: Sequence[Any]
    tokens: list[int]
    cut: list[int]


def prompt_of(served: Served, input_type: str | None, prompt_name: str | None, side: str | None) -> str:
    """The name of the prompt that a request asks for.

    Args:
        served: whose prompts.
        input_type: as the request says it, in any spelling.
        prompt_name: as the request says it.
        side: as the model's name says it.

    Raises:
        ApiError: 400 if these contradict each other, or the checkpoint has no such prompt.
    """
    asked = [name for name in (_SIDES.get(input_type or "", input_type), prompt_name, side) if name is not None]
    if len(set(asked)) > 1:
        raise ApiError(400, f"{' and '.join(asked)} contradict each other; say it once", "invalid_value")
    name = asked[0] if asked else "query"
    if name not in served.encoder.prompts:
        known = some_names(served.encoder.prompts, "/v1/models")
        param = "prompt_name" if prompt_name is not None else "input_type" if input_type is not None else "model"
        raise ApiError(400, f"{served.name} has no prompt named {name!r}; it has {known}", "invalid_value", param=param)
    return name


def prepare(
    served: Served,
    inputs: Sequence[str] | Sequence[Sequence[int]],
    prompt: str,
    *,
    soft: bool = False,
    param: str = "input",
) -> Prepared:
    """Tokenises texts and cuts those that are too long.

    Args:
        served: the checkpoint.
        inputs: texts, or token ids of texts.
        prompt: name of one of its prompts.
        soft: whether soft prompts are wanted instead of embeddings.
        param: the field that holds them.

    Raises:
        InputError: for texts and ids that cannot be read.
    """
    encoder, model = served.encoder, served.encoder.model
    lane = served.soft_prompts if soft else served.embeddings
    taught = not soft and bool(encoder.query_weight or (prompt == "document" and served.documents is not None))
    if inputs and not isinstance(inputs[0], str):
        _check_ids(served, inputs)  # type: ignore[arg-type]
        if taught:
            inputs = _texts_of_ids(served, inputs)  # type: ignore[arg-type]
    if inputs and not isinstance(inputs[0], str):
        rows, cut = _rows_of_ids(served, inputs, prompt)  # type: ignore[arg-type]
    else:
        texts = check_texts(inputs, param)  # type: ignore[arg-type]
        if prompt == "document" and served.documents is not None and not soft:
            return _for_teacher(served, texts, served.documents)
        before = encoder.prompts.get(prompt, "")
        rows, cut = model.rows([before + text for text in texts], encoder.max_tokens)
        if encoder.query_weight and not soft:
            return _for_both(served, rows, cut, _for_teacher(served, texts, lane))
    tokens = [len(row) + model.tokens for row in rows]
    return Prepared(lane, rows, tokens, [i for i, was in enumerate(cut) if was])


def check_cut(prepared: Prepared, limit: int, *, truncate: bool, param: str = "input") -> None:
    """Refuses cut texts, where the request says so.

    Raises:
        ApiError: 422.
    """
    if prepared.cut and not truncate:
        raise ApiError(
            422,
            f"{param}: {len(prepared.cut)} of {len(prepared.tokens)} texts longer than {limit} tokens, first number "
            f"{prepared.cut[0]}; shorten them, or send truncate: true",
            "input_too_long",
            param=param,
        )


def limit_of(served: Served, prompt: str, *, soft: bool = False) -> int:
    """The longest input on a side, in tokens."""
    if prompt == "document" and served.documents is not None and not soft:
        return served.encoder.load_document_teacher().max_tokens
    return served.encoder.max_tokens


def _for_teacher(served: Served, texts: list[str], lane: Lane) -> Prepared:
    teacher = served.encoder.load_document_teacher()
    limit, counts = teacher.max_tokens, teacher.count_tokens(texts)
    cut = [i for i, count in enumerate(counts) if count > limit]
    return Prepared(lane, texts, [max(1, min(count, limit)) for count in counts], cut)


def _for_both(served: Served, rows: list[list[int]], cut: list[bool], bare: Prepared) -> Prepared:
    """Texts that the checkpoint reads in their rows and its teacher bare: the tokens of both, and what either cuts."""
    tokens = [len(row) + served.encoder.model.tokens + more for row, more in zip(rows, bare.tokens, strict=True)]
    either = sorted({*bare.cut, *(i for i, was in enumerate(cut) if was)})
    return Prepared(bare.lane, list(zip(rows, bare.payloads, strict=True)), tokens, either)


def _check_ids(served: Served, inputs: Sequence[Sequence[int]]) -> None:
    backbone = served.encoder.model.backbone
    size = int(backbone.embedding.num_embeddings)
    bad = next((i for i, ids in enumerate(inputs) if ids and not 0 <= min(ids) <= max(ids) < size), None)
    if bad is not None:
        raise InputError(
            f"input {bad} has token ids outside 0 to {size - 1}; expected ids of {backbone.name}'s own tokenizer "
            "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False) sends texts)"
        )


def _texts_of_ids(served: Served, inputs: Sequence[Sequence[int]]) -> list[str]:
    """The texts that token ids were made from, for a teacher, which reads texts.

    Raises:
        InputError: for ids that no text has, such as control tokens or half a character.
    """
    backbone = served.encoder.model.backbone
    texts = [backbone.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) for ids in inputs]
    again = backbone.tokenize(texts)
    for i, (ids, found) in enumerate(zip(inputs, again, strict=True)):
        if list(ids) != list(found):
            raise InputError(
                f"input {i} has token ids that {backbone.name}'s tokenizer makes of no text, and a teacher of "
                f"{served.name} reads texts; send the text itself"
            )
    return texts


def _rows_of_ids(served: Served, inputs: Sequence[Sequence[int]], prompt: str) -> tuple[list[list[int]], list[bool]]:
    encoder, model, backbone = served.encoder, served.encoder.model, served.encoder.model.backbone
    (before,) = backbone.tokenize([encoder.prompts.get(prompt, "")])
    room = encoder.max_tokens - len(model.prefix_ids) - len(model.suffix_ids) - model.tokens - len(before)
    if room < 1:
        raise InputError(f"{served.name} has room for {encoder.max_tokens} tokens, which template and prompt fill")
    rows = [[*model.prefix_ids, *before, *ids[:room], *model.suffix_ids] for ids in inputs]
    return rows, [len(ids) > room for ids in inputs]
