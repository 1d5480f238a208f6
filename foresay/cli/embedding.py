"""Texts to embeddings."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import ClusterConfig, ShardsConfig
from ..errors import InputError
from ..files import write_json
from ..outputs import check_file, check_output, check_space, holding, replacing
from .options import Command, HomePath, Text, build, option, options, shared
from .running import calm_libraries, load_encoder, progress_bar, reasons_of, texts_of

if TYPE_CHECKING:
    from ..embedded import Array
    from ..encoder import Encoder
    from ..reading.stored import SoftPrompts


@click.command(
    cls=Command,
    short_help="Embed texts.",
    example="""
    foresay encode checkpoint texts.jsonl -o vectors.npy
    foresay encode checkpoint --text 'What does frugal mean?'
    foresay encode checkpoint millions.jsonl -o vectors --shards parquet --devices all
    """,
)
@click.argument("checkpoint")
@click.argument("source", required=False)
@shared("text")
@option(
    "output",
    type=HomePath(),
    help="A .npy file (with --shards a folder); without it, JSON lines to stdout.",
)
@click.option(
    "--as", "kind", type=click.Choice(["query", "document"]), default="query", show_default=True, help="Whose prompt."
)
@click.option("--prompt", type=Text(), help="Put this before each text instead.")
@click.option("--normalize", is_flag=True, help="Scale each embedding to length 1.")
@click.option("--truncate-dim", type=int, help="Keep this many numbers of each: one of the checkpoint's --dims.")
@click.option(
    "--keep-soft-prompts",
    is_flag=True,
    help="Store soft prompts beside the vectors, to decode any item later without its text.",
)
@click.option("--no-cut", is_flag=True, help="Fail on texts that are too long instead of cutting them.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
@options(ShardsConfig)
@options(ClusterConfig)
def encode(
    checkpoint: str,
    source: str | None,
    texts: tuple[str, ...],
    output: Path | None,
    kind: str,
    prompt: str | None,
    normalize: bool,
    truncate_dim: int | None,
    keep_soft_prompts: bool,
    no_cut: bool,
    **where: Any,  # noqa: ANN401
) -> None:
    """Embed the texts of SOURCE (any file that respond reads), or those given with --text."""
    config, cluster = build(ShardsConfig, where), build(ClusterConfig, where)
    if config.shards != "none" or cluster.cluster:
        work = {"kind": kind, "prompt": prompt, "normalize": normalize, "truncate_dim": truncate_dim, "no_cut": no_cut}
        _encode_shards(checkpoint, source, None if keep_soft_prompts else output, (config, cluster), {**work, **where})
        return
    if keep_soft_prompts and output is None:
        raise InputError("--keep-soft-prompts stores a file beside the vectors; add -o FILE.npy")
    how: dict[str, Any] = {
        "prompt": prompt,
        "normalize_embeddings": normalize,
        "truncate_dim": truncate_dim,
        "on_cut": "error" if no_cut else "warn",
        "show_progress_bar": source is not None,
    }
    if output is not None:
        _check_vectors(output, source)
    with nullcontext() if output is None else holding(output):  # vectors and ids of one call, not of two
        ids, wanted = texts_of(source, texts, where.pop("column"), where.pop("split"), repeats=True)
        encoder = load_encoder(checkpoint, **where)
        embed = encoder.encode_query if kind == "query" else encoder.encode_document
        if output is None:
            _print(ids, embed(wanted, **how))
            return
        check_space(output.parent, len(wanted) * (truncate_dim or encoder.dim) * 4)
        with _store(encoder, output, ids, kind) if keep_soft_prompts else nullcontext() as stored:
            vectors = embed(wanted, **how, soft_prompts=None if stored is None else stored.array)
        names = _write(output, ids, vectors, keeps_soft_prompts=keep_soft_prompts)
    click.echo(f"{output}: {len(vectors)} embeddings of width {vectors.shape[1]}; their ids are in {names}")


def _print(ids: list[str], vectors: "Array") -> None:
    """JSON lines."""
    import json

    for name, vector in zip(ids, vectors, strict=True):
        click.echo(json.dumps({"id": name, "embedding": [round(float(x), 7) for x in vector]}))


def _write(output: Path, ids: list[str], vectors: "Array", *, keeps_soft_prompts: bool = False) -> Path:
    """Writes the vectors and their ids beside them, and returns the path of the ids."""
    import numpy as np

    from ..reading.stored import SoftPrompts

    names = _beside(output, "ids.json")
    with replacing(output) as part:
        with part.open("wb") as file:
            np.save(file, vectors)
        names.unlink(missing_ok=True)  # so that a kill leaves no vectors with the ids of others
        if not keeps_soft_prompts:
            SoftPrompts.delete(_beside(output, "soft_prompts.npy"))  # those of an earlier call
    write_json(names, ids)
    return names


def _encode_shards(
    checkpoint: str,
    source: str | None,
    output: Path | None,
    configs: tuple[ShardsConfig, ClusterConfig],
    how: dict[str, Any],
) -> None:
    """A folder of shards, by one encoder, one a device, or a cluster's."""
    config, cluster = configs
    if config.shards == "none":
        raise InputError("--cluster stores a folder of shards; add --shards npy")
    if source is None or output is None:
        raise InputError("--shards takes a file of texts and -o FOLDER, and stores embeddings alone")
    from ..data.vectors import REJECTED, check_vectors

    check_vectors(output)
    check_output(output / "manifest.json")
    calm_libraries()
    from ..bulk_encoding import EncodeWork, encode_shards
    from ..cluster.processes import Processes, parse_devices
    from ..cluster.work import Here, Pool
    from ..data.queries import read_queries

    rows = read_queries(source, column=how.pop("column"), split=how.pop("split"), repeats=True)
    device = how.pop("device")
    if config.devices and (device != "auto" or cluster.cluster):
        raise InputError("--devices names the devices of this machine; leave --device and --cluster out")
    work = EncodeWork(checkpoint, **how)
    pool: Pool = Here(work, device)
    if cluster.cluster:
        from ..cluster.ray_pool import RayPool

        pool = RayPool(work, cluster, device)
    elif config.devices:
        pool = Processes(work, parse_devices(config.devices))
    with pool, progress_bar("encoding") as progress:
        made = encode_shards(rows, pool, output, config, progress)
    click.echo(
        f"{output}: {made.rows} embeddings of width {made.dim} as {config.precision}, {made.new} of them new, "
        f"{made.rejected} rows rejected"
    )
    if made.rejected:
        click.echo(f"rejected rows are in {output / REJECTED}: {reasons_of(output / REJECTED)}", err=True)


def _check_vectors(output: Path, source: str | None) -> None:
    """Fails before an hour of encoding, where vectors that `encode` did not write would be replaced among the rest."""
    names = _beside(output, "ids.json")
    check_file(output, [".npy"], [source])
    check_output(names)
    if output.exists() and not names.exists():
        raise InputError(
            f"{output} is there already, and without {names.name}, so foresay encode did not write it; use another -o, "
            "or delete it"
        )


def _beside(output: Path, kind: str) -> Path:
    """A file of its own for each output: `vectors.npy` has `vectors.ids.json`."""
    return output.with_name(f"{output.stem}.{kind}")


def _store(encoder: "Encoder", output: Path, ids: list[str], kind: str) -> AbstractContextManager["SoftPrompts"]:
    """A file beside the vectors for their soft prompts, to be filled."""
    from ..reading.stored import SoftPrompts

    if kind == "document" and encoder.document_teacher is not None:
        raise InputError(
            "--keep-soft-prompts: the teacher embeds this checkpoint's documents, which then have no soft "
            "prompts; leave it out, or encode with --as query"
        )
    if not encoder.decodes:
        raise InputError(
            "--keep-soft-prompts: this checkpoint was made without the reconstruction loss and cannot decode"
        )
    return SoftPrompts.creating(_beside(output, "soft_prompts.npy"), encoder.model, ids)
