"""The one thread that owns the model.

jobs.py      what is handed to it, and how an answer finds its way back
queue.py     the bounded queue: admission by tokens, batches of similar length
lanes.py     what a batch can be run through: embeddings, soft prompts, a teacher's documents
cache.py     a key/value cache that grows in place, and lets rows join and leave
sampling.py  scores to tokens
stream.py    tokens to text, up to a stop string
writing.py   one text being written
outlets.py   where its pieces go: one answer, or a stream
desk.py      all texts being written, a token each at a step
check.py     whether the backbone writes in a batch what it writes alone
engine.py    the thread: whose turn it is
"""
