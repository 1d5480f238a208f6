"""LangChain's OpenAI classes against a server: vectors and text, as JSON on the last line.

In: URL, key and texts (JSON), on the command line. Runs in the environment of `make test-clients`.
"""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

url, key, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def embedder(model: str) -> OpenAIEmbeddings:
    """One side: LangChain has no word for it, so the model's name says it."""
    return OpenAIEmbeddings(model=model, base_url=url, api_key=key, check_embedding_ctx_length=False)


chat = ChatOpenAI(model="one", base_url=url, api_key=key, temperature=0, max_completion_tokens=20)
print(  # noqa: T201
    json.dumps(
        {
            "queries": [embedder("one:query").embed_query(text) for text in texts],
            "documents": embedder("one:document").embed_documents(texts),
            "chat": chat.invoke(texts[0]).content,
            "stream": "".join(piece.content for piece in chat.stream(texts[0])),
        }
    )
)
