"""What chat, completions and decode share: sampling, log-probabilities, usage, and streams that end with their client.

In: requests, and pieces of text from the engine. Out: responses, or server-sent events.
Be careful: a stream has its status before its first piece; what goes wrong later is an event of its own.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from ...backbone import Backbone
from ..engine.jobs import Stopped, Ticket
from ..engine.outlets import Piece, Stream
from ..engine.sampling import Chosen, Sampling
from ..engine.writing import Prompt
from ..errors import ApiError, translate
from ..schemas import writing as schemas
from ..service import Service, note, service_of

Events = Callable[[int, Piece], list[dict[str, Any]]]


def samplings(service: Service, body: schemas.Writing, prompts: list[Prompt], most: int | None) -> list[Sampling]:
    """How each text is written: `n` of each prompt.

    Raises:
        ApiError: 400 for a length or a token that is out of range.
    """
    size = int(service.backbone.embedding.num_embeddings)
    bias = {}
    for token, value in (body.logit_bias or {}).items():
        if not token.isascii() or not token.isdigit() or len(token) > 9 or int(token) >= size:
            raise ApiError(400, f"logit_bias: expected token ids from 0 to {size - 1}", "invalid_value")
        bias[int(token)] = value
    seed = secrets.randbits(62) if body.seed is None else body.seed
    temperature = 1.0 if body.temperature is None else body.temperature
    return [
        Sampling(
            max_tokens=length(service, prompt, most),
            temperature=temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=seed_of(seed, i),
            stop=body.stops,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=bias,
            log_probs=_log_probs(body),
        )
        for prompt in prompts
        for i in range(body.n)
    ]


def length(service: Service, prompt: Prompt, most: int | None) -> int:
    """The longest text: what the request says, or what fits, and never more than the server allows.

    Raises:
        ApiError: 400 for more than the server allows, and where not even one token fits.
    """
    limit = service.config.max_new_tokens
    if most is not None and most > limit:
        message = f"max_tokens is {most}; this server writes at most {limit}"
        raise ApiError(400, message, "invalid_value", param="max_tokens")
    room = service.backbone.max_positions - prompt.length
    if room < 1:
        raise ApiError(
            400,
            f"the prompt has {prompt.length} tokens; at most {service.backbone.max_positions - 1} fit",
            "context_length_exceeded",
        )
    return min(limit, room) if most is None else most


def seed_of(seed: int, index: int) -> int:
    """A seed for one text of several, whatever is written beside it."""
    return (seed + index * 0x9E3779B97F4A7C15) % (1 << 63)


def _log_probs(body: schemas.Writing) -> int | None:
    if isinstance(body, schemas.ChatRequest):
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "invalid_value", param="top_logprobs")
        return (body.top_logprobs or 0) if body.logprobs else None
    return body.logprobs if isinstance(body, schemas.CompletionRequest) else None


def chat_log_probs(backbone: Backbone, tokens: list[Chosen]) -> schemas.ChatLogProbs | None:
    """Log-probabilities in the shape of chat completions; None where they were not asked for."""
    if any(token.log_prob is None for token in tokens):
        return None
    return schemas.ChatLogProbs(
        content=[
            schemas.TokenLogProb(
                **_token(backbone, token.id, token.log_prob or 0.0),
                top_logprobs=[schemas.TopLogProb(**_token(backbone, i, p)) for i, p in token.top],
            )
            for token in tokens
        ]
    )


def piece_log_probs(backbone: Backbone, piece: Piece) -> dict[str, Any] | None:
    """Those of one piece of a stream, as JSON; None where it has no token, or they were not asked for."""
    told = chat_log_probs(backbone, [piece.token]) if piece.token is not None else None
    return told.model_dump() if told else None


def _token(backbone: Backbone, token: int, log_prob: float) -> dict[str, Any]:
    text = str(backbone.tokenizer.decode([token]))
    whole = "\ufffd" not in text  # a part of a character is no text
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode()) if whole else None}


def usage(read: int, written: int) -> schemas.WritingUsage:
    """Tokens read and written."""
    return schemas.WritingUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def stream(
    request: Request,
    ticket: Ticket,
    prompts: list[Prompt],
    how: list[Sampling],
    events: Events,
    last: Callable[[int], list[dict[str, Any]]],
) -> StreamingResponse:
    """Starts texts, and sends their pieces as they come.

    Args:
        request: whose client reads.
        ticket: ends when the client leaves.
        prompts: one a text.
        how: one a text.
        events: what is sent for a piece of a text.
        last: what is sent at the end, given the number of tokens written.
    """
    pieces = Stream(len(prompts))
    request.scope["state"]["ticket"] = ticket  # the gate ends it, however the stream ends
    service_of(request).start_writing(ticket, prompts, how, pieces.outlets)
    note(request, items=len(prompts), tokens=sum(prompt.length for prompt in prompts), stream=True)

    async def send() -> AsyncIterator[bytes]:
        written = 0
        try:
            async for index, piece in pieces:
                written += piece.token is not None
                for event in events(index, piece):
                    yield server_sent(event)
            for event in last(written):
                yield server_sent(event)
            yield server_sent("[DONE]")
        except Exception as error:
            told = translate(error)
            if told is None:
                raise
            yield server_sent(json.loads(told.body()))
        except asyncio.CancelledError:
            if not service_of(request).draining:  # the client has left
                raise
            if told := translate(Stopped("the server is shutting down")):
                yield server_sent(json.loads(told.body()))
        finally:
            ticket.cancel()  # whoever reads no more gets no more written
            note(request, written=written)

    return StreamingResponse(send(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def server_sent(data: object) -> bytes:
    """One server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
