"""/v1/completions, from the weights that embed.

In: texts or token ids. Out: how the backbone goes on, without a chat template.
Be careful: control tokens in a text are text; token ids are taken as they are.
"""

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...backbone import check_texts
from ...errors import InputError
from ..engine.outlets import Piece, Written
from ..engine.writing import Prompt
from ..errors import responses
from ..schemas.writing import CompletionChoice, CompletionLogProbs, CompletionRequest, CompletionResponse
from ..service import Service, note, service_of
from .chat import STREAM
from .embeddings import listed
from .writing import samplings, stream, usage

router = APIRouter(prefix="/v1", tags=["writing"])


@router.post("/completions", response_model=CompletionResponse, responses={**responses(404), **STREAM})
async def completions(body: CompletionRequest, request: Request) -> CompletionResponse | Response:
    """Continues texts."""
    service = service_of(request)
    ticket = service.ticket()
    model = service.check_writer(body.model)
    inputs = listed(body.prompt)
    service.check_items(len(inputs) * body.n, "prompt")
    given = await service.tokenize(_prompts, service, inputs)
    prompts = [prompt for prompt in given for _ in range(body.n)]
    how = samplings(service, body, given, body.max_tokens)
    head: dict[str, Any] = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
    read = sum(prompt.length for prompt in given)
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        around = {**head, "object": "text_completion"}
        offsets = [0] * len(prompts)

        def events(index: int, piece: Piece) -> list[dict[str, Any]]:
            tokens = [piece.token] if piece.token is not None else []
            text = Written(piece.text, tokens, piece.finish or "length")
            log_probs = _log_probs(service, text, offsets[index]) if body.logprobs is not None and tokens else None
            offsets[index] += len(piece.text)
            if not (piece.text or piece.finish or log_probs):
                return []
            choice = {
                "index": index,
                "text": piece.text,
                "logprobs": log_probs.model_dump() if log_probs else None,
                "finish_reason": piece.finish,
            }
            return [{**around, "choices": [choice], **({"usage": None} if wants_usage else {})}]

        def last(written: int) -> list[dict[str, Any]]:
            return [{**around, "choices": [], "usage": usage(read, written).model_dump()}] if wants_usage else []

        return stream(request, ticket, prompts, how, events, last)
    note(request, items=len(prompts), tokens=read)
    texts = await service.write(request, ticket, prompts, how)
    written = sum(len(text.tokens) for text in texts)
    note(request, written=written)
    choices = [
        CompletionChoice(
            index=i,
            text=text.text,
            logprobs=_log_probs(service, text, 0) if body.logprobs is not None else None,
            finish_reason=text.finish,
        )
        for i, text in enumerate(texts)
    ]
    return CompletionResponse(**head, object="text_completion", choices=choices, usage=usage(read, written))


def _prompts(service: Service, inputs: list[Any]) -> list[Prompt]:
    backbone = service.backbone
    if isinstance(inputs[0], str):
        rows = backbone.tokenize(check_texts(inputs, "prompt"))
        found = [Prompt([*backbone.leading_ids, *row]) for row in rows]
    else:
        size = int(backbone.embedding.num_embeddings)
        if any(not 0 <= token < size for ids in inputs for token in ids):
            raise InputError(f"prompt: expected token ids from 0 to {size - 1}, those of {backbone.name}")
        found = [Prompt(ids) for ids in inputs]
    if any(not prompt.length for prompt in found):
        raise InputError("prompt: a text without tokens cannot be continued")
    return found


def _log_probs(service: Service, text: Written, offset: int) -> CompletionLogProbs:
    decode = service.backbone.tokenizer.decode
    names = [str(decode([token.id])) for token in text.tokens]
    offsets = [offset + sum(map(len, names[:i])) for i in range(len(names))]
    return CompletionLogProbs(
        tokens=names,
        token_logprobs=[token.log_prob or 0.0 for token in text.tokens],
        top_logprobs=[{str(decode([i])): p for i, p in token.top} for token in text.tokens],
        text_offset=offsets,
    )
