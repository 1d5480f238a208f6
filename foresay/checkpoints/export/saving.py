"""`SentenceTransformer.save_pretrained` of a checkpoint: what it writes gives the same vectors, or it fails.

In: the files for plain sentence-transformers, before they appear. Out: those that would lose something, and now refuse.
Careful: of a model that goes by name that library saves the adapter, and forgets the dtype and the configuration it was
told to load the model with. The one thing of a folder that can make it fail is the name of a chat template, of which
transformers makes a file's name: one with a slash is refused, and said in the error.
"""

from pathlib import Path

from transformers import AutoConfig

from ...files import read_json, write_json

_SAID = (
    "sentence-transformers would load this model again with another dtype and/or configuration, and embed differently; "
    "copy the checkpoint's folder instead, or run `foresay bundle CHECKPOINT -o NEW` and save that one"
)


def refuse_to_lose(draft: Path) -> None:
    """Makes each model in a folder refuse to be saved, if its vectors would change by that."""
    for path in draft.rglob("sentence_bert_config.json"):
        home = path.parent
        adapter = next((place for place in (home, home / "adapter") if (place / "adapter_config.json").is_file()), None)
        if adapter is not None and _loses(read_json(path), read_json(adapter / "adapter_config.json")):
            _refuse(home)


def _loses(transformer: dict[str, dict[str, str]], adapter: dict[str, str]) -> bool:
    """Whether a model that goes by name is loaded in other than its own dtype, or with another configuration."""
    if transformer.get("config_kwargs"):
        return True
    config = AutoConfig.from_pretrained(adapter["base_model_name_or_path"], revision=adapter.get("revision"))
    own = config.dtype or config.get_text_config().dtype
    return transformer["model_kwargs"]["dtype"] != str(own).removeprefix("torch.")


def _refuse(home: Path) -> None:
    """Adds the chat template that cannot be saved to those of a tokenizer."""
    path, default = home / "tokenizer_config.json", home / "chat_template.jinja"
    config = read_json(path)
    templates = config.get("chat_template", [])
    if default.is_file():  # a file goes before what the configuration says
        templates = default.read_text(encoding="utf-8")
        default.unlink()
    if isinstance(templates, str):
        templates = [{"name": "default", "template": templates}]
    write_json(path, {**config, "chat_template": [*templates, {"name": _SAID, "template": ""}]})
