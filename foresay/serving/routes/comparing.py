"""/v1/rerank, /v2/rerank, /rerank, /v1/similarity and /v1/lens.

In: texts. Out: cosines of their embeddings, or the words that their compression tokens stand for.
Be careful: reranking here compares embeddings, a query with documents; no model reads the two side by side.
"""

import secrets
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request

from ...config import LensConfig
from ...encoder import Encoder
from ...reading.lens import lens as read_lens
from ...reading.lenses import Hit as Found
from ..checkpoints import Served
from ..errors import responses
from ..schemas.common import Options, Usage
from ..schemas.comparing import (
    AnyRerankRequest,
    Document,
    Hit,
    LensLayer,
    LensRequest,
    LensResponse,
    RerankRequest,
    RerankResponse,
    RerankResult,
    SimilarityRequest,
    SimilarityResponse,
    TeiRank,
)
from ..service import note, service_of
from ..texts import prompt_of
from ..vectors import Array
from .embeddings import read, run, usage

router = APIRouter(tags=["comparing and reading"])


@router.post("/v1/rerank", responses=responses(404, 422))
@router.post("/v2/rerank", responses=responses(404, 422))
async def rerank(body: RerankRequest, request: Request) -> RerankResponse:
    """Puts documents into the order in which they answer a query, by cosine of embeddings."""
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    served, scores, tokens, cut = await _score(
        request, body.model, body.query, texts, "documents", truncate=body.truncate
    )
    order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    results = [
        RerankResult(
            index=i,
            relevance_score=float(scores[i]),
            document=Document(text=texts[i]) if body.return_documents else None,
        )
        for i in order
    ]
    return RerankResponse(
        id=f"rerank-{secrets.token_hex(12)}",
        object="list",
        model=served.name,
        results=results,
        usage=Usage(**usage(tokens)),
        cut=cut,
    )


@router.post("/rerank", responses=responses(404, 422))
async def tei_rerank(body: AnyRerankRequest, request: Request) -> list[TeiRank] | RerankResponse:
    """The same in the shape of text-embeddings-inference, with the first checkpoint; or, with `documents`, as above."""
    if isinstance(body, RerankRequest):
        return await rerank(body, request)
    _, scores, _, _ = await _score(request, None, body.query, body.texts, "texts", truncate=body.truncate)
    order = np.argsort(-scores, kind="stable").tolist()
    shown = scores.tolist() if body.raw_scores else ((1 + scores) / 2).tolist()
    return [TeiRank(index=i, score=shown[i], text=body.texts[i] if body.return_text else None) for i in order]


@router.post("/v1/similarity", responses=responses(404, 422))
async def similarity(body: SimilarityRequest, request: Request) -> SimilarityResponse:
    """Cosines of texts: each of `left` with each of `right`."""
    service = service_of(request)
    served, side = service.checkpoint(body.model)
    left_prompt = prompt_of(served, body.left_type, None, side)
    left, tokens, _ = await _embed(request, served, body.left, left_prompt, "left", truncate=body.truncate)
    right = left
    if body.right is not None:
        right_prompt = prompt_of(served, body.right_type or body.left_type, None, side)
        right, more, _ = await _embed(request, served, body.right, right_prompt, "right", truncate=body.truncate)
        tokens += more
    scores = Encoder.similarity(left, right).tolist()
    return SimilarityResponse(object="similarity", model=served.name, scores=scores, usage=Usage(**usage(tokens)))


@router.post("/v1/lens", responses=responses(404, 422))
async def lens(body: LensRequest, request: Request) -> LensResponse:
    """The likeliest words of each compression token at each layer: the logit lens."""
    service = service_of(request)
    ticket = service.ticket()
    served, side = service.checkpoint(body.model)
    prompt = prompt_of(served, body.input_type, body.prompt_name, side)
    prepared = await read(service, served, [body.input], prompt, body, soft=True)
    note(request, items=1, tokens=sum(prepared.tokens))
    config = LensConfig(top=body.top, layers=body.layers)
    (reading,) = await service.call(
        request, ticket, lambda: read_lens(served.encoder, body.input, config, prompt_name=prompt)
    )
    layers = [
        LensLayer(layer=layer, tokens=[_hits(token) for token in tokens], merged=_hits(merged))
        for layer, tokens, merged in zip(reading.layers, reading.tokens, reading.merged, strict=True)
    ]
    total = sum(prepared.tokens)
    return LensResponse(object="lens", model=served.name, layers=layers, usage=Usage(**usage(total)), cut=prepared.cut)


def _hits(found: Sequence[Found]) -> list[Hit]:
    return [Hit(text=one.text, score=one.score) for one in found]


async def _score(
    request: Request, model: str | None, query: str, texts: Sequence[str], param: str, *, truncate: bool
) -> tuple[Served, Array, int, list[int]]:
    """Cosines (documents,) of a query with the texts of a field; all tokens; which were cut, -1 being the query."""
    service = service_of(request)
    service.check_items(len(texts), param)
    served = service.sideless(model, "reranking")
    asked, tokens, query_cut = await _embed(request, served, [query], "query", "query", truncate=truncate)
    found, more, cut = await _embed(request, served, texts, "document", param, truncate=truncate)
    return served, Encoder.similarity(asked, found)[0], tokens + more, [*(-1 for _ in query_cut), *cut]


async def _embed(
    request: Request, served: Served, texts: Sequence[str], prompt: str, param: str, *, truncate: bool
) -> tuple[Array, int, list[int]]:
    service = service_of(request)
    ticket = service.ticket()
    prepared = await read(service, served, list(texts), prompt, Options(truncate=truncate), param=param)
    vectors = np.stack(await run(request, ticket, prepared))
    return vectors, sum(prepared.tokens), prepared.cut
