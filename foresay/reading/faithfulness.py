"""Does an embedding say what it means? The teacher embeds the decoded text, and that is compared with the embedding.

In: an encoder and queries, the LLM's real responses if there are some. Out: for each query the cosine of its embedding
to the decoded text, and beside it the cosine to the real response: what a perfect decoder would reach.
Be careful with targets that mix in the query: then neither score can be 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import check_texts
from ..config import DecodeConfig
from ..encoder import Encoder
from ..errors import InputError

if TYPE_CHECKING:
    from ..teachers.base import Teacher


@dataclass(frozen=True)
class Faithfulness:
    """How near an embedding is to the text it decodes to.

    Attributes:
        query: what was embedded.
        decoded: what its embedding reads as.
        score: cosine of the embedding to the teacher's vector of the decoded text.
        response: what the LLM really answers; None if it is not known.
        response_score: the same cosine for it.
    """

    query: str
    decoded: str
    score: float
    response: str | None = None
    response_score: float | None = None


def faithfulness(
    encoder: Encoder,
    queries: str | Sequence[str],
    *,
    responses: Sequence[str] | None = None,
    teacher: "Teacher | None" = None,
    config: DecodeConfig | None = None,
) -> list[Faithfulness]:
    """Decodes queries and scores what comes out.

    Args:
        encoder: whose embeddings.
        queries: one text or many.
        responses: what the LLM answers to each, as `respond` wrote it.
        teacher: who set the targets; by default the one that embeds the checkpoint's documents.
        config: how to decode.

    Raises:
        InputError: without a teacher, with one of another width, or with another number of responses than queries.
    """
    asked = check_texts(queries)
    if responses is not None and len(responses) != len(asked):
        raise InputError(f"there are {len(asked)} queries and {len(responses)} responses; expected one for each")
    if teacher is not None:
        encoder = encoder.with_document_teacher(teacher)
    elif encoder.document_teacher is None:
        raise InputError("this checkpoint embeds documents itself; name the teacher of its targets with --teacher")
    prompts = np.empty((len(asked), encoder.model.compression, encoder.model.backbone.hidden_size), np.float32)
    embeddings = encoder.encode_query(asked, soft_prompts=prompts)
    decoded = encoder.decode(soft_prompts=prompts, config=config)
    scores = _cosines(embeddings, encoder.encode_document([text or " " for text in decoded]))
    if responses is None:
        return [Faithfulness(*row) for row in zip(asked, decoded, scores, strict=True)]
    real = _cosines(embeddings, encoder.encode_document(list(responses)))
    return [Faithfulness(*row) for row in zip(asked, decoded, scores, responses, real, strict=True)]


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> list[float]:
    """Cosine of each row with the same row of the other side."""
    found: list[float] = torch.cosine_similarity(torch.from_numpy(left), torch.from_numpy(right)).tolist()
    return found
