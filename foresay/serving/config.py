"""What the server is told, and where its API keys come from.

In: the command line. Out: `ServeConfig`. Nothing here imports torch, so `foresay serve --help` answers at once.
Be careful: a size of 0 never means "without limit" here; every limit is a number.
"""

from dataclasses import dataclass
from typing import Annotated

from ..config import Options
from ..errors import InputError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeConfig(Options):
    """How the server listens, what it accepts, and how it works."""

    SECTIONS = {
        "host": "Where it listens, and to whom",
        "max_body": "What it accepts",
        "batch_tokens": "How it works",
    }

    host: Annotated[str, "Address to listen on. Others than loopback need API keys, or --open."] = "127.0.0.1"
    port: Annotated[int, "Port to listen on; 0 takes a free one and prints it."] = 8000
    api_keys: Annotated[
        str, "File of API keys, one 'name:key' a line. Without it, FORESAY_API_KEYS (name:key,name:key) counts."
    ] = ""
    open: Annotated[bool, "Answer anyone who reaches the port, without API keys, on any address."] = False
    cors: Annotated[tuple[str, ...], "Origin whose web pages may call the server; repeatable. None by default."] = ()

    max_body: Annotated[int, "Largest request body, in bytes."] = 8 << 20
    max_items: Annotated[int, "Most texts in one request."] = 2048
    max_request_tokens: Annotated[int, "Most tokens in one request."] = 262_144
    max_requests: Annotated[int, "Most requests in progress; more are refused with 429."] = 512
    queue_tokens: Annotated[int, "Most tokens waiting; a request that would pass it is refused with 429."] = 524_288
    timeout: Annotated[float, "Seconds that a request may take; then it fails with 504."] = 120.0
    client_timeout: Annotated[float, "Seconds that a client may take to send or to read the next piece."] = 30.0

    batch_tokens: Annotated[int, "Most padded tokens in one forward pass; it halves itself when memory runs out."] = (
        8192
    )
    sequences: Annotated[int, "Most texts written at the same time."] = 32
    cache_tokens: Annotated[int, "Most tokens in the key/value cache of the texts being written."] = 32_768
    max_new_tokens: Annotated[int, "Longest text that chat, completions or decode may write, in tokens."] = 1024
    chat_share: Annotated[float, "Share of the time for writing texts while embeddings wait too, 0.05 to 0.95."] = 0.5
    normalize: Annotated[bool, "Scale embeddings to length 1 where a request does not say."] = False
    drain: Annotated[int, "Seconds that requests in progress get after SIGTERM."] = 30
    threads: Annotated[int, "CPU threads of the model; 0 leaves torch's own choice."] = 0

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            InputError: for a number outside its range, by name.
        """
        super().__post_init__()
        least = {"port": 0, "threads": 0, "drain": 0}
        for name, hint in self.types().items():
            value = getattr(self, name)
            if hint is int and value < least.get(name, 1):
                raise InputError(f"{name} is {value}; expected {least.get(name, 1)} or more")
        for name in ("timeout", "client_timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected seconds above 0")
        if self.port > 65_535:
            raise InputError(f"port is {self.port}; expected at most 65535")
        if not 0.05 <= self.chat_share <= 0.95:
            raise InputError(f"chat_share is {self.chat_share}; expected 0.05 to 0.95, so that neither side starves")
        if self.max_request_tokens > self.queue_tokens:
            raise InputError(
                f"max_request_tokens is {self.max_request_tokens}, more than the queue holds ({self.queue_tokens}); "
                "raise queue_tokens or lower max_request_tokens"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the port."""
        return self.host in LOOPBACK
