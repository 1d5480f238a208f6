"""Checkpoints behind HTTP."""

from typing import Any

import click

from ..serving.config import ServeConfig
from .options import Command, build, options, shared
from .running import calm_libraries


@click.command(
    cls=Command,
    short_help="Serve checkpoints over HTTP: embed, chat, decode.",
    example="""
    foresay serve checkpoint
    foresay serve shop=checkpoints/shop law=checkpoints/law --api-keys keys.txt --host 0.0.0.0
    """,
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="[NAME=]CHECKPOINT...")
@shared("elsewhere")
@shared("device")
@shared("dtype")
@options(ServeConfig)
def serve(checkpoints: tuple[str, ...], backbone: str | None, device: str, dtype: str, **values: Any) -> None:  # noqa: ANN401
    """Serve CHECKPOINTS of one language model: one copy of it embeds, chats and decodes.

    OpenAI's clients work with http://HOST:PORT/v1. The routes are listed at /docs. API keys come from a file, or from
    FORESAY_API_KEYS; FORESAY_ADMIN_KEY turns on the routes that add and drop checkpoints.
    """
    config = build(ServeConfig, values)
    calm_libraries()
    from ..serving.serve import serve as run

    run(checkpoints, config, backbone=backbone, device=device, dtype=dtype)
