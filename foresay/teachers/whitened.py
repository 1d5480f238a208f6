"""A whitened teacher: another teacher, and one linear map after it.

In: the folder that `foresay whiten` or `foresay teacher --closed-form` made (`whiten.py`):

    teacher.json                 the teacher below: its backbone, or its name; what the whitening was chosen by
    whitening.safetensors        mean and matrix
    golden.safetensors           vectors of a few texts, and a sample of the backbone's weights
    adapter/, modules.json, …    the same teacher for plain sentence-transformers, where that can express it

Out: a `WhitenedTeacher`. Careful: the teacher below has to be the very one that was whitened, so its revision, or a
sample of its backbone, is compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..files import read_json, write_json
from .base import LinearMap, Teacher, Vectors, Wanted, digest, kind, open_teacher
from .llm2vec_folder import read_about
from .packaged import folder_of
from .whitening import FILE, Whitening


class WhitenedTeacher(Teacher):
    """Another teacher's vectors, whitened."""

    def __init__(self, inner: Teacher, whitening: Whitening, name: str) -> None:
        """Uses a teacher that is loaded already.

        Args:
            inner: whose vectors are whitened.
            whitening: the map.
            name: as `load_teacher` takes it.
        """
        self.inner, self.whitening, self.name = inner, whitening, name
        self.revision = digest(str(inner.revision), whitening.fingerprint())
        self.pooling, self.max_tokens = f"{inner.pooling}, whitened", inner.max_tokens
        self.dim, self.dtype = whitening.matrix.shape[1], inner.dtype

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, axes), float32."""
        return self.whitening(self.inner.embed(texts))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the teacher below counts them."""
        return self.inner.count_tokens(texts)

    def weights(self) -> Iterable[Tensor]:
        """Those below; the revision stands for the map."""
        return self.inner.weights()

    def export(self, folder: Path, after: LinearMap | None, *, whole: bool) -> bool:
        """As the teacher below, with one more linear map; in float32, which a mean so large asks for."""
        if not self.inner.export(folder, self.whitening.as_map().then(after), whole=whole):
            return False
        path = folder / "sentence_bert_config.json"
        if path.is_file() and "dtype" in (config := read_json(path)).get("model_kwargs", {}):
            config["model_kwargs"]["dtype"] = "float32"
            write_json(path, config)
        return True


@kind(order=15)
def open_whitened(wanted: Wanted) -> WhitenedTeacher | None:
    """A folder with a whitening; the teacher below it is in the folder too, or goes by name."""
    folder = folder_of(wanted.name)
    if wanted.bare or not (folder / FILE).is_file():
        return None
    about = read_about(folder)
    below = about.get("teacher", {}).get("name", wanted.name)
    inner = open_teacher(replace(wanted, name=below, bare=below == wanted.name))
    whitening = Whitening.load(folder)
    if inner is None or inner.dim != len(whitening.mean):
        raise InputError(f"{folder} whitens {below}, which is gone or another model; put that one in its place")
    expected = about.get("teacher", {}).get("revision")
    if expected is not None and inner.revision != expected:
        raise InputError(f"{folder} whitens {below} at revision {expected}, there it is {inner.revision}; get that one")
    return WhitenedTeacher(inner, whitening, wanted.name)
