"""Whether a checkpoint gives its golden vectors on this machine, by every way that it can be used here.

In: a checkpoint. Out: a verdict a way, or a `VerifyError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import torch

from ..backbone import Backbone
from ..encoder import Array, Encoder
from ..errors import CheckpointError, VerifyError
from ..shown import one_line
from .folder import find, read_tensors
from .golden import GOLDEN_TEXTS, TOLERANCE, Verdict, distance, recompute
from .record import GOLDEN, Exported, Record


def verify(
    path: str | Path, *, backbone: Backbone | None = None, device: str = "auto", dtype: str = "auto"
) -> list[Verdict]:
    """Recomputes the golden vectors by every way this machine has.

    Args:
        path: folder, or hub id.
        backbone: an already loaded one, where it is not where the checkpoint says. Plain sentence-transformers, which
            finds it by the recorded name alone, is then left out.
        device: as for `Backbone.load`; ignored with `backbone`.
        dtype: of the backbone; `auto` is what the checkpoint records. Ignored with `backbone`.

    Returns:
        one verdict a way: batched, one text at a time, soft prompts, the teacher's documents where it embeds them,
        and plain sentence-transformers where it can.

    Raises:
        VerifyError: if one of them disagrees, naming it and the distance.
        CheckpointError: if the checkpoint cannot be read, or plain sentence-transformers cannot read its part of it.
    """
    folder = find(path)
    record, golden = Record.load(folder), read_tensors(folder / GOLDEN)
    encoder = Encoder.from_pretrained(folder, backbone=backbone, device=device, dtype=dtype)
    used = encoder.model.backbone.dtype_name
    tolerance = max(TOLERANCE[used], TOLERANCE[record.backbone.dtype])
    computed = recompute(encoder, golden)
    if record.sentence_transformers.queries and (backbone is None or backbone.name == record.backbone.name):
        computed |= _recompute_plain(folder, encoder, record.sentence_transformers, documents="documents" in golden)
    verdicts = [Verdict(way, distance(found, golden[name]), tolerance) for way, (name, found) in computed.items()]
    wrong = [verdict for verdict in verdicts if not verdict.agrees]
    if wrong:
        listed = "; ".join(f"{v.way} is off by {v.distance:.2g}, allowed {v.tolerance:.2g}" for v in wrong)
        raise VerifyError(f"{folder} does not give its golden vectors here ({used}): {listed}; do not use it here")
    return verdicts


def _recompute_plain(
    folder: Path, encoder: Encoder, exported: Exported, *, documents: bool
) -> dict[str, tuple[str, Array]]:
    """Golden vectors by plain sentence-transformers, on the encoder's device and in its dtype."""
    from sentence_transformers import SentenceTransformer  # seconds, and only this way needs it

    from .export.sentence_transformers import queries_by_both

    missing = [name for name in exported.files if not (folder / name).exists()]
    if missing:
        raise _unreadable(folder, f"{missing[0]} is missing")
    backbone, texts = encoder.model.backbone, list(GOLDEN_TEXTS)
    with _reading_plain(folder):
        plain = SentenceTransformer(str(folder), device=str(backbone.device), model_kwargs={"dtype": backbone.dtype})
        if encoder.query_weight:
            found = queries_by_both(plain, texts, encoder.query_weight, prompt="")
        else:
            found = plain.encode_query(texts, prompt="", show_progress_bar=False)
        computed = {"sentence-transformers": ("embeddings", found)}
        if documents and exported.documents:
            found = plain.encode_document(texts, show_progress_bar=False)
            computed["sentence-transformers, documents"] = ("documents", found)
    return computed


@contextmanager
def _reading_plain(folder: Path) -> Iterator[None]:
    """Turns what the plain library raises on damaged files, which may be anything, into a CheckpointError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _unreadable(folder, one_line(f"{type(error).__name__}: {error}", 200)) from error


def _unreadable(folder: Path, reason: str) -> CheckpointError:
    """That the files for plain sentence-transformers cannot be used, why, and how to get others."""
    return CheckpointError(
        f"{folder}: its files for plain sentence-transformers are incomplete or damaged ({reason}); write them anew "
        f"with foresay bundle {quote(str(folder))} -o NEW, or get the checkpoint again"
    )
