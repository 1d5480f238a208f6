"""An encoder in the clothes of a `SentenceTransformer`: for what plain sentence-transformers cannot open by itself.

In: an encoder. Out: an object for whatever takes a loaded SentenceTransformer, as mteb does.
Most checkpoints do not need it, because `SentenceTransformer(folder)` opens them. It is for those that read every
layer, or through a LoRA adapter.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from ..encoder import Encoder
from ..errors import InputError


def as_sentence_transformer(encoder: Encoder) -> SentenceTransformer:
    """The encoder as a SentenceTransformer, with its prompts; same vectors.

    If a teacher embeds the documents, a bare `encode` raises an InputError that asks for a task, as the checkpoint's
    folder does in that library: documents embedded as queries would be found by nobody.

    It is for embedding only: saving and training it is the business of `checkpoint` and `train`.
    """
    device = str(encoder.model.backbone.device)
    prompts = dict(encoder.prompts)
    if encoder.document_teacher:
        prompts["document"] = ""  # the teacher embeds bare texts
    return SentenceTransformer(modules=[_Module(encoder)], device=device, prompts=prompts, similarity_fn_name="cosine")


class _Module(InputModule):  # type: ignore[misc] # the library's classes are untyped
    """One module from texts to embeddings."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        object.__setattr__(self, "encoder", encoder)  # not a submodule: the library must not move or train it
        self.encoder: Encoder
        self.max_seq_length = encoder.max_tokens

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Texts stay texts: `Encoder` tokenizes them so that they never become control tokens."""
        return {"texts": [str(text) for text in inputs], "prompt": prompt or "", "task": kwargs.get("task")}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: ANN401
        """Adds `sentence_embedding` (batch, dim)."""
        texts, task = features["texts"], features["task"]
        if task not in ("query", "document") and self.encoder.document_teacher:
            raise InputError(
                f"{self.encoder.document_teacher.name} embeds this checkpoint's documents, so say what these are: "
                'encode_query, encode_document, or encode with task="query" or task="document"'
            )
        if task == "document" and self.encoder.document_teacher:
            vectors = self.encoder.encode_document(texts)
        else:
            vectors = self.encoder.encode(texts, prompt=features["prompt"])
        return {**features, "sentence_embedding": torch.from_numpy(vectors)}

    def get_embedding_dimension(self) -> int:
        """Width of an embedding."""
        return self.encoder.dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ANN401
        """Refused: nothing could open what would be written."""
        raise InputError("a checkpoint cannot be saved through sentence-transformers; copy its folder")
