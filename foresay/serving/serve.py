"""`foresay serve` as a function.

In: checkpoints and a `ServeConfig`. Out: nothing; it serves until SIGTERM or SIGINT.
Be careful: FastAPI and uvicorn come with the extra `serve`, and are imported only here, when it is called.
"""

from collections.abc import Sequence

from ..errors import InputError
from .config import ServeConfig


def serve(
    checkpoints: Sequence[str],
    config: ServeConfig | None = None,
    *,
    backbone: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Serves checkpoints of one backbone over HTTP until the process is told to end.

    Args:
        checkpoints: `PATH` or `NAME=PATH` each.
        config: where it listens, what it accepts, how it works.
        backbone: the language model, where it is not where the first checkpoint says.
        device: as for `Backbone.load`.
        dtype: as for `Backbone.load`.

    Raises:
        InputError: for keys that cannot be read, an open address without keys, one that cannot be
            listened on, and without the extra `serve`.
        ForesayError: for checkpoints that cannot be served.
    """
    try:
        from .server import run
    except ImportError as error:
        raise InputError(f"serving needs {error.name}, which is not installed: pip install 'foresay[serve]'") from None
    run(checkpoints, config or ServeConfig(), backbone=backbone, device=device, dtype=dtype)
