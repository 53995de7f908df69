"""The tokenizer of a published checkpoint."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from demask.denoisers.checkpoints.chat import ChatTemplate
from demask.errors import CheckpointError, TokenizerError

TOKENIZER: Final = "tokenizer.json"
PIECES: Final = ("vocab.json", "merges.txt")  # byte-level pieces as Qwen publishes them


@dataclass(frozen=True)
class PublishedTokenizer:
    """Token ids of a text, and the text of token ids, as a checkpoint's own tokenizer.json has them.

    Names of special tokens within a text are those tokens, as chat templates need; only the mask is refused.

    Parameters:
        source: what a tokenizer.json of the tokenizers library holds.
        size: tokens of the model, V: ids without a token stand for no text.
        ends: ids that end a text.
        mask: the id that no text may hold.
        chat: how a conversation is written, or None.

    Raises:
        TokenizerError: a source that the library refuses, or more tokens than V.

    Cost: the library is imported when it is made.
    """

    source: str = field(repr=False)
    size: int
    ends: tuple[int, ...]
    mask: int
    chat: ChatTemplate | None = None

    def __post_init__(self) -> None:
        if wrong := [name for name, index in self.ids.items() if index >= self.size and index != self.mask]:
            raise TokenizerError(
                f"the token {wrong[0]!r} has the id {self.ids[wrong[0]]}, but the model has {self.size} tokens; the files "
                "are of different models"
            )

    @property
    def end(self) -> int:
        """The id that ends a text, the first of several."""
        return self.ends[0]

    @cached_property
    def mark(self) -> str | None:
        """The text of the mask, None where it is no token of the tokenizer."""
        return self._library.id_to_token(self.mask)  # type: ignore[no-any-return]

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of every token."""
        return dict(self._library.get_vocab(with_added_tokens=True))

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """The ids of the model that stand for no token."""
        return tuple(sorted(set(range(self.size)) - set(self.ids.values())))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without anything before or after it.

        Raises:
            TokenizerError: a text that holds the mask token, or is not Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the text is not Unicode: {error}; decode it with errors='strict' first") from None
        found = list(self._library.encode(text, add_special_tokens=False).ids)
        if self.mask in found:
            raise TokenizerError(
                f"the text holds the mask token {self.mark!r}; leave it out of the text: a gap "
                "is written [MASK] or [MASK:6] in a template"
            )
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without the end tokens behind it.

        Raises:
            TokenizerError: an id outside 0 .. size - 1.
        """
        kept = [int(index) for index in ids]
        if wrong := [index for index in kept if not 0 <= index < self.size]:
            raise TokenizerError(f"token id {wrong[0]}; expected 0 .. {self.size - 1}")
        while kept and kept[-1] in self.ends:
            kept.pop()
        return str(self._library.decode(kept, skip_special_tokens=False))

    @cached_property
    def _library(self) -> Any:
        return _library(self.source)


def read_source(folder: Path, kind: tuple[str, str, str]) -> str:
    """Return the tokenizer of a checkpoint as the content of a tokenizer.json.

    Where there is none, pieces and merges are put together, with the added tokens of tokenizer_config.json. No code of the
    checkpoint runs.

    Parameters:
        folder: of the checkpoint.
        kind: module and class of the library that know how its family puts them together, and the tokenizer's public name.

    Raises:
        CheckpointError: neither is there.
        TokenizerError: a file that is not what its name says.
    """
    path = folder / TOKENIZER
    if path.is_file():
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError(f"{path}: not text; expected a tokenizer.json of the tokenizers library") from None
    if not all((folder / name).is_file() for name in PIECES):
        raise CheckpointError(
            f"{folder} holds no {TOKENIZER}, and not both {' and '.join(PIECES)}; write one with "
            f"transformers.AutoTokenizer.from_pretrained({kind[2]}).save_pretrained({str(folder)!r})"
        )
    return _assembled(folder, *kind[:2])


def vocabulary(source: str, folder: Path) -> dict[str, int]:
    """Return the id of every token of a tokenizer.json; a TokenizerError names the folder."""
    try:
        return dict(_library(source).get_vocab(with_added_tokens=True))
    except TokenizerError as error:
        raise TokenizerError(f"{folder}: {error}") from None


def _library(source: str) -> Any:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_str(source)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"the tokenizers library refuses the tokenizer: {error}; download it again") from None
    library.no_truncation()
    library.no_padding()
    return library


def _assembled(folder: Path, module: str, name: str) -> str:
    from tokenizers import AddedToken

    from demask.denoisers.checkpoints.family import native

    try:
        pieces = json.loads((folder / PIECES[0]).read_bytes())
        lines = (folder / PIECES[1]).read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        library = getattr(native(module), name)(vocab=pieces, merges=merges).backend_tokenizer
        plain = set(pieces.values())
        config = folder / "tokenizer_config.json"
        added = json.loads(config.read_bytes()).get("added_tokens_decoder", {}) if config.is_file() else {}
        for index, token in sorted((int(index), token) for index, token in added.items()):
            library.add_tokens([AddedToken(token["content"], special=bool(token.get("special")), normalized=False)])
            if library.token_to_id(token["content"]) != index:
                raise ValueError(
                    f"{token['content']!r} is to be {index}, but the {len(plain)} pieces leave no such place"
                )
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise plain Exception
        raise TokenizerError(
            f"{folder}: {' and '.join(PIECES)} make no tokenizer ({error}); download them again"
        ) from None
    return str(library.to_str())
