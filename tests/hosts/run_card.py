"""Runs the code that a checkpoint's card has for a host, and prints what it embeds as JSON on the last line.

In: name of the host, folder and texts (JSON), on the command line. Runs in the environment of `make test-hosts`.
"""

import json
import sys
from pathlib import Path
from typing import Any

WORDS = {"langchain": "HuggingFaceEmbeddings", "haystack": "haystack_integrations", "llama_index": "llama_index"}
host, folder, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def langchain(made: dict[str, Any]) -> list[Any]:
    """Queries and documents."""
    embeddings = made["embeddings"]
    return [[embeddings.embed_query(text) for text in texts], embeddings.embed_documents(texts)]


def haystack(made: dict[str, Any]) -> list[Any]:
    """Queries and documents."""
    from haystack import Document

    for name in ("query_embedder", "document_embedder"):
        getattr(made[name], "warm_up", lambda: None)()
    queries = [made["query_embedder"].run(text=text)["embedding"] for text in texts]
    found = made["document_embedder"].run(documents=[Document(content=text) for text in texts])
    return [queries, [document.embedding for document in found["documents"]]]


def llama_index(made: dict[str, Any]) -> list[Any]:
    """Queries and documents."""
    model = made["embed_model"]
    one = model.get_text_embedding(texts[0])
    many = model.get_text_embedding_batch(texts)
    return [[model.get_query_embedding(text) for text in texts], [one, *many[1:]]]


def without_a_side() -> str:
    """What the host says of the folder as it stands."""
    try:
        if host == "langchain":
            from langchain_huggingface import HuggingFaceEmbeddings

            HuggingFaceEmbeddings(model_name=folder).embed_documents(texts)
        elif host == "haystack":
            from haystack import Document
            from haystack_integrations.components.embedders.sentence_transformers import (
                SentenceTransformersDocumentEmbedder,
            )

            embedder = SentenceTransformersDocumentEmbedder(model=folder)
            getattr(embedder, "warm_up", lambda: None)()
            embedder.run(documents=[Document(content=texts[0])])
        else:
            from llama_index.embeddings.huggingface import HuggingFaceEmbedding

            model = HuggingFaceEmbedding(model_name=folder)
            type(model)._embed_with_retry.__wrapped__(model, texts, "text")  # without the pauses between its attempts
    except ValueError as error:
        return str(error)
    return ""


card = (Path(folder) / "README.md").read_text(encoding="utf-8")
blocks = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
(block,) = [block for block in blocks if WORDS[host] in block]
made: dict[str, Any] = {}
exec(block.replace("PATH", folder), made)
queries, documents = {"langchain": langchain, "haystack": haystack, "llama_index": llama_index}[host](made)
print(json.dumps({"queries": queries, "documents": documents, "without a side": without_a_side()}))  # noqa: T201
