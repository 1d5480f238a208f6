"""/v1/chat/completions, from the weights that embed.

In: a conversation. Out: what the backbone answers, whole or as a stream.
Be careful: sampling is OpenAI's by default, temperature 1; a request without a seed gets a new one each time.
"""

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...backbone import check_texts
from ..engine.outlets import Piece
from ..engine.writing import Prompt
from ..errors import ApiError, responses
from ..messages import conversation_ids
from ..schemas.writing import ChatChoice, ChatMessage, ChatRequest, ChatResponse
from ..service import Service, note, service_of
from .writing import chat_log_probs, piece_log_probs, samplings, stream, usage

router = APIRouter(prefix="/v1", tags=["writing"])
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""One event of a stream; its data are a chunk as JSON, or `[DONE]`."""
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}


@router.post("/chat/completions", response_model=ChatResponse, responses={**responses(404), **STREAM})
async def chat(body: ChatRequest, request: Request) -> ChatResponse | Response:
    """Continues a conversation."""
    service = service_of(request)
    ticket = service.ticket()
    model = service.check_writer(body.model)
    prompt = await service.tokenize(_prompt, service, body)
    prompts = [prompt] * body.n
    how = samplings(service, body, [prompt], _most(body))
    head: dict[str, Any] = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
    if body.stream:
        started: set[int] = set()
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        around = {**head, "object": "chat.completion.chunk"}

        def events(index: int, piece: Piece) -> list[dict[str, Any]]:
            choices = _deltas(service, index, piece, first=index not in started)
            started.add(index)
            return [{**around, "choices": [choice], **({"usage": None} if wants_usage else {})} for choice in choices]

        def last(written: int) -> list[dict[str, Any]]:
            counted = usage(prompt.length, written).model_dump()
            return [{**around, "choices": [], "usage": counted}] if wants_usage else []

        return stream(request, ticket, prompts, how, events, last)
    note(request, items=body.n, tokens=prompt.length)
    texts = await service.write(request, ticket, prompts, how)
    written = sum(len(text.tokens) for text in texts)
    note(request, written=written)
    choices = [
        ChatChoice(
            index=i,
            message=ChatMessage(role="assistant", content=text.text),
            logprobs=chat_log_probs(service.backbone, text.tokens) if body.logprobs else None,
            finish_reason=text.finish,
        )
        for i, text in enumerate(texts)
    ]
    return ChatResponse(**head, object="chat.completion", choices=choices, usage=usage(prompt.length, written))


def _prompt(service: Service, body: ChatRequest) -> Prompt:
    texts = check_texts([message.text for message in body.messages], "message")
    roles = ["system" if message.role == "developer" else message.role for message in body.messages]
    return Prompt(conversation_ids(service.backbone, roles, texts))


def _most(body: ChatRequest) -> int | None:
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; say it once", "invalid_value")
    return body.max_completion_tokens or body.max_tokens


def _deltas(service: Service, index: int, piece: Piece, *, first: bool) -> list[dict[str, Any]]:
    """The choices of the events that one piece makes: the role first, then text, then why it ends."""
    found: list[dict[str, Any]] = []
    if first:
        found.append({"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None})
    log_probs = piece_log_probs(service.backbone, piece)
    if piece.text or log_probs:
        found.append({"delta": {"content": piece.text}, "logprobs": log_probs, "finish_reason": None})
    if piece.finish is not None:
        found.append({"delta": {}, "logprobs": None, "finish_reason": piece.finish})
    return [{"index": index, **choice} for choice in found]
