"""/v1/decode: what an embedding stands for, in words.

In: texts, embedded as queries, or soft prompts as base64 of raw little-endian numbers. Out: texts, or a stream.
Be careful: of raw numbers the shape is known before a byte is read, this checkpoint's own, so nothing large is ever
made of something small.
"""

import base64
import binascii
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...errors import InputError
from ...reading.decode import checked_prompts, question_ids
from ..checkpoints import Served
from ..engine.jobs import Ticket
from ..engine.outlets import Piece
from ..engine.sampling import Sampling
from ..engine.writing import Prompt
from ..errors import ApiError, responses
from ..schemas.common import Options
from ..schemas.writing import DecodedText, DecodeRequest, DecodeResponse, RawSoftPrompt
from ..service import Service, note, service_of
from ..vectors import Array
from .chat import STREAM
from .embeddings import read, run
from .writing import chat_log_probs, length, piece_log_probs, seed_of, stream, usage

router = APIRouter(prefix="/v1", tags=["writing"])


@router.post("/decode", response_model=DecodeResponse, responses={**responses(404), **STREAM})
async def decode(body: DecodeRequest, request: Request) -> DecodeResponse | Response:
    """Writes out what texts or soft prompts stand for."""
    service = service_of(request)
    ticket = service.ticket()
    served = service.sideless(body.model, "decoding")
    service.check_writer(None)
    if not served.encoder.decodes:
        raise InputError(
            f"{served.name} was made without the reconstruction loss, so nothing can read its soft prompts; to decode, "
            "make one with foresay train and --reconstruction-weight above 0"
        )
    found, tokens = await _soft_prompts(request, ticket, served, body)
    before, after = question_ids(served.encoder.model, body.ask)
    prompts = [Prompt(after, torch.from_numpy(one), before) for one in found]
    how = [_sampling(service, body, prompt, i) for i, prompt in enumerate(prompts)]
    if body.stream:
        around = {"object": "decode.chunk", "model": served.name}

        def events(index: int, piece: Piece) -> list[dict[str, Any]]:
            told = piece_log_probs(service.backbone, piece)
            if not (piece.text or told or piece.finish):
                return []
            chunk = {"index": index, "text": piece.text, "logprobs": told, "finish_reason": piece.finish}
            return [{**around, **chunk}]

        return stream(request, ticket, prompts, how, events, lambda written: [])
    texts = await service.write(request, ticket, prompts, how)
    written = sum(len(text.tokens) for text in texts)
    note(request, items=len(prompts), tokens=tokens, written=written)
    data = [
        DecodedText(
            index=i,
            text=text.text,
            finish_reason=text.finish,
            logprobs=chat_log_probs(service.backbone, text.tokens) if body.logprobs else None,
        )
        for i, text in enumerate(texts)
    ]
    return DecodeResponse(object="list", data=data, model=served.name, usage=usage(tokens, written))


async def _soft_prompts(
    request: Request, ticket: Ticket, served: Served, body: DecodeRequest
) -> tuple[list[Array], int]:
    """The soft prompts of a request, and how many tokens were read for them."""
    service = service_of(request)
    if (body.input is None) == (body.soft_prompts is None):
        raise ApiError(400, "give either input or soft_prompts", "invalid_value")
    if body.soft_prompts is not None:
        service.check_items(len(body.soft_prompts), "soft_prompts")
        arrays = await service.help(lambda: [_raw(served, i, one) for i, one in enumerate(body.soft_prompts or [])])
        return arrays, sum(len(one) for one in arrays)
    inputs = [body.input] if isinstance(body.input, str) else list(body.input or [])
    prepared = await read(service, served, inputs, "query", Options(), soft=True)
    return await run(request, ticket, prepared), sum(prepared.tokens)


def _raw(served: Served, number: int, given: RawSoftPrompt) -> Array:
    """The numbers of a soft prompt.

    Raises:
        ApiError: 400 unless it is exactly as large as this checkpoint's are.
        InputError: for numbers that are not finite.
    """
    model = served.encoder.model
    shape, size = [model.compression, model.backbone.hidden_size], np.dtype(given.dtype).itemsize
    if given.shape != shape:
        raise _bad(number, f"its shape is {given.shape}; soft prompts of {served.name} have {shape}")
    wanted = shape[0] * shape[1] * size
    if len(given.data) > 4 * (wanted + 2) // 3 + 4:
        raise _bad(number, f"its data is longer than the base64 of {wanted} bytes")
    try:
        raw = base64.b64decode(given.data, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(number, "its data is not base64") from None
    if len(raw) != wanted:
        raise _bad(number, f"its data has {len(raw)} bytes; {given.shape} of {given.dtype} are {wanted}")
    array = np.frombuffer(raw, np.dtype(given.dtype).newbyteorder("<")).reshape(shape).astype(np.float32)
    checked_prompts(model, array)
    return array


def _bad(number: int, why: str) -> ApiError:
    return ApiError(400, f"soft prompt {number}: {why}", "invalid_value", param="soft_prompts")


def _sampling(service: Service, body: DecodeRequest, prompt: Prompt, index: int) -> Sampling:
    return Sampling(
        max_tokens=min(length(service, prompt, body.max_tokens), service.backbone.max_positions - prompt.length),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=seed_of(body.seed or 0, index),
        stop=body.stops,
        log_probs=0 if body.logprobs else None,
    )
