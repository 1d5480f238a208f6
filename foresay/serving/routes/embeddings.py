"""/v1/embeddings and /v1/soft_prompts.

In: texts. Out: what a checkpoint makes of them, in their order.
Be careful: without `input_type` texts are queries, as OpenAI's clients cannot say more; the response says which it was.
"""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..checkpoints import Served
from ..engine.jobs import Ticket
from ..errors import responses
from ..schemas.common import Options
from ..schemas.embeddings import EmbeddingsRequest, EmbeddingsResponse, SoftPromptsRequest, SoftPromptsResponse
from ..service import Service, note, service_of
from ..texts import Prepared, check_cut, limit_of, prepare, prompt_of
from ..vectors import Array, as_json, check_dimensions, dump, finish

router = APIRouter(prefix="/v1", tags=["embeddings"])


@router.post("/embeddings", response_model=EmbeddingsResponse, responses=responses(404, 422))
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Embeds texts: what the backbone would answer to a query, or what a document says."""
    service = service_of(request)
    ticket = service.ticket()
    served, side = service.checkpoint(body.model)
    check_dimensions(served, body.dimensions)
    prompt = prompt_of(served, body.input_type, body.prompt_name, side)
    prepared = await read(service, served, listed(body.input), prompt, body)
    vectors = np.stack(await run(request, ticket, prepared))
    normalize = service.config.normalize if body.normalize is None else body.normalize

    def write() -> bytes:
        rows = finish(vectors, body.dimensions, normalize=normalize)
        data = [
            {"object": "embedding", "index": i, "embedding": as_json(row, body.encoding_format)}
            for i, row in enumerate(rows)
        ]
        return dump(_around(served, prompt, prepared, data))

    return await respond(service, write)


@router.post("/soft_prompts", response_model=SoftPromptsResponse, responses=responses(404, 422))
async def soft_prompts(body: SoftPromptsRequest, request: Request) -> Response:
    """What the backbone reads to write the answer to each text; keep it to decode later."""
    service = service_of(request)
    ticket = service.ticket()
    served, side = service.checkpoint(body.model)
    prompt = prompt_of(served, body.input_type, body.prompt_name, side)
    prepared = await read(service, served, listed(body.input), prompt, body, soft=True)
    prompts = await run(request, ticket, prepared)

    def write() -> bytes:
        data = [
            {
                "object": "soft_prompt",
                "index": i,
                "soft_prompt": as_json(one, body.encoding_format),
                "shape": list(one.shape),
                "dtype": "float32",
            }
            for i, one in enumerate(prompts)
        ]
        return dump(_around(served, prompt, prepared, data))

    return await respond(service, write)


def listed(inputs: Any) -> list[Any]:  # noqa: ANN401 - what the schema lets through
    """A request's input as a list of texts or of token ids."""
    if isinstance(inputs, str):
        return [inputs]
    return [inputs] if inputs and isinstance(inputs[0], int) else list(inputs)


async def read(
    service: Service,
    served: Served,
    inputs: list[Any],
    prompt: str,
    options: Options,
    *,
    soft: bool = False,
    param: str = "input",
) -> Prepared:
    """Tokenises the texts in a request's field `param`, beside the event loop, and refuses what may not be cut.

    Raises:
        ApiError: 400 for no texts, 413 for too many, 422 for cut ones where the request says so.
        InputError: for texts that cannot be read.
    """
    service.check_items(len(inputs), param)
    prepared = await service.tokenize(lambda: prepare(served, inputs, prompt, soft=soft, param=param))
    check_cut(prepared, limit_of(served, prompt, soft=soft), truncate=options.truncate, param=param)
    service.metrics.cut.inc(len(prepared.cut))
    return prepared


async def run(request: Request, ticket: Ticket, prepared: Prepared) -> list[Array]:
    """Runs prepared texts; one array each."""
    note(request, items=len(prepared.tokens), tokens=sum(prepared.tokens))
    return await service_of(request).run(request, ticket, prepared.lane, prepared.payloads, prepared.tokens)


async def respond(service: Service, write: Any) -> Response:  # noqa: ANN401 - a function to bytes
    """A response whose JSON is written beside the event loop."""
    start = time.perf_counter()
    body = await service.help(write)
    service.metrics.serialize.observe(time.perf_counter() - start)
    return Response(body, media_type="application/json")


def usage(tokens: int) -> dict[str, int]:
    """Usage of a request that writes no text."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _around(served: Served, prompt: str, prepared: Prepared, data: list[Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "model": served.name,
        "usage": usage(sum(prepared.tokens)),
        "input_type": prompt,
        "cut": prepared.cut,
    }
