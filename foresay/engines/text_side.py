"""What a model does with text, for engines that keep its weights elsewhere: tokenizer, chat template, lengths, stops.

In: a backbone's name. Out: a `TextSide`, which makes the same token ids as the `Backbone` of that name. No weight is
read, so it costs a second and a few megabytes whatever the size of the model.
Be careful: the stop tokens are the model's own, from its `generation_config.json`; nothing else of that file applies.
"""

from functools import cached_property
from typing import Any

from transformers import AutoConfig, GenerationConfig

from ..backbone_loading import load_tokenizer
from ..backbone_sources import canonical, locate
from ..errors import BackboneError
from ..tokenizing import Tokenizing


class TextSide(Tokenizing):
    """The tokenizer and the templates of a model, without the model.

    Attributes:
        name: hub id, full path, `nano` or `smollm2`, as `Backbone.name`.
        source: the folder or hub id that another library loads the weights from.
        revision: commit, branch or tag on the hub.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Reads the tokenizer and the configuration.

        Raises:
            BackboneError: if there is no such model, or it has no tokenizer that we can use.
        """
        self.name, self.revision = canonical(name), revision
        self.source = locate(self.name, revision)
        self.tokenizer = load_tokenizer(self.source, self.name, revision)
        try:
            self.config = AutoConfig.from_pretrained(self.source, revision=revision)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BackboneError(
                f"cannot read the configuration of {self.name!r}: {reason}; get its files again"
            ) from error

    @cached_property
    def generation_config(self) -> Any:  # noqa: ANN401 - transformers' configs are untyped
        """The model's own settings; of them only the stop tokens are used."""
        try:
            return GenerationConfig.from_pretrained(self.source, revision=self.revision)
        except OSError:  # many models have no such file
            return GenerationConfig.from_model_config(self.config)

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for."""
        return int(getattr(self.config.get_text_config(), "max_position_embeddings", 0) or 1 << 20)
