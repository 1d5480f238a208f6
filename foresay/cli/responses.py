"""Queries to responses."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import ClusterConfig, EndpointConfig, RespondConfig, VLLMConfig
from ..errors import InputError
from ..outputs import check_output
from .options import Command, HomePath, build, option, options, shared
from .running import calm_libraries, progress_bar, reasons_of

if TYPE_CHECKING:
    from ..engines.base import Engine, EngineOptions


@click.command(
    cls=Command,
    short_help="Let a language model answer queries.",
    example="""
    foresay respond queries.jsonl -m Qwen/Qwen3-0.6B -o responses.jsonl
    """,
)
@click.argument("queries")
@shared("backbone")
@option("output", required=True, type=HomePath(), help="JSON lines file to append to.")
@shared("column")
@shared("split")
@shared("revision")
@shared("device")
@shared("dtype")
@click.option("--shard", help="Answer the K-th of N parts of the queries, such as 1/4; OUTPUT's name gets -1-of-4.")
@options(RespondConfig)
@options(ClusterConfig)
@options(VLLMConfig)
@options(EndpointConfig)
def respond(
    queries: str,
    backbone: str,
    output: Path,
    column: str | None,
    split: str,
    revision: str | None,
    device: str,
    dtype: str,
    shard: str | None,
    **values: Any,  # noqa: ANN401
) -> None:
    """Let a model answer QUERIES: a .jsonl, .csv, .tsv, .parquet or .txt file, or a data set on the hub.

    Resumes when it is run again. Rows without an answer go to OUTPUT.rejected.jsonl.
    """
    config, endpoint, vllm = build(RespondConfig, values), build(EndpointConfig, values), build(VLLMConfig, values)
    cluster = build(ClusterConfig, values)
    from ..data.shards import QueryFile, Shard

    part = Shard.parse(shard) if shard else None
    output = part.name(output) if part else output
    check_output(output)
    rows = QueryFile(queries, column=column, split=split, shard=part)
    calm_libraries()
    from ..engines.base import EngineOptions, open_engine
    from ..engines.respond import beside
    from ..engines.respond import respond as run

    wanted = EngineOptions(backbone, config, endpoint, revision, device, dtype, vllm)
    with ExitStack() as stack:
        engine = _on_cluster(cluster, wanted, stack) if cluster.cluster else open_engine(config.engine, wanted)
        with progress_bar("responding") as progress:
            summary = run(rows, engine, output, config, progress)
    copies = f" ({summary.copied} of them copies, for repeated texts)" if summary.copied else ""
    repeated = f"{rows.repeated} repeated and left out, " if rows.repeated else ""
    click.echo(
        f"{output}: {summary.written} written{copies}, {repeated}{summary.skipped} there before, "
        f"{summary.rejected} rejected, {summary.cut} stopped by the length limit"
    )
    if summary.rejected:
        reasons = reasons_of(beside(output, "rejected.jsonl"))
        click.echo(f"rejected rows are in {beside(output, 'rejected.jsonl')}: {reasons}", err=True)


def _on_cluster(cluster: ClusterConfig, wanted: "EngineOptions", stack: ExitStack) -> "Engine":
    """An engine of the cluster's workers, which end with the stack."""
    if wanted.config.engine == "openai":
        raise InputError("--engine openai waits for a server and needs no --cluster; raise --batch-size")
    from ..cluster.ray_pool import RayPool
    from ..engines.pooled import PooledEngine, RespondWork

    pool = stack.enter_context(RayPool(RespondWork(wanted.config.engine, wanted), cluster, wanted.device))
    return PooledEngine(pool, pool.workers, wanted.config.batch_size)
