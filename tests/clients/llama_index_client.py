"""LlamaIndex's OpenAI-like classes against a server: vectors and text, as JSON on the last line.

In: URL, key and texts (JSON), on the command line. Runs in the environment of `make test-clients`.
"""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

url, key, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def embedder(side: str) -> OpenAILikeEmbedding:
    """One side, by the model's name."""
    return OpenAILikeEmbedding(model_name=f"one:{side}", api_base=url, api_key=key)


llm = OpenAILike(
    model="one", api_base=url, api_key=key, is_chat_model=True, temperature=0, max_tokens=20, context_window=512
)
turns = [ChatMessage(role="user", content=texts[0])]
print(  # noqa: T201
    json.dumps(
        {
            "queries": [embedder("query").get_query_embedding(text) for text in texts],
            "documents": embedder("document").get_text_embedding_batch(texts),
            "chat": llm.chat(turns).message.content,
            "stream": "".join(piece.delta or "" for piece in llm.stream_chat(turns)),
        }
    )
)
