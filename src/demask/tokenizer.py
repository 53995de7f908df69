"""Text to token ids and back: byte-level pieces learned from text, or whole words.

The mask is no token. A canvas says by a boolean what is masked, so no text and no model can ever write a mask.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from demask import files
from demask.errors import TokenizerError

END: Final = "[END]"
BYTES: Final = 256
_ENDS: Final = (END, "<|endoftext|>", "</s>", "<eos>", "[SEP]")  # what others call the end of a text


@dataclass(frozen=True)
class Tokenizer:
    """Token ids of a text, and the text of token ids.

    `encode` takes every text as it stands: the characters "[END]" in it are characters, never the end token.

    Parameters:
        source: what a tokenizer.json of the tokenizers library holds.

    Raises:
        TokenizerError: another content, or one without an end-of-text token.

    Cost: the library is imported when a text is first encoded; never for a word-level tokenizer.

    Example:
        >>> tokenizer = Tokenizer.words(["a", "cat", "sat"])
        >>> tokenizer.encode("a cat"), tokenizer.decode([1, 2, 3, 3]), tokenizer.size, tokenizer.end
        ([0, 1], 'cat sat', 4, 3)
    """

    source: str

    def __post_init__(self) -> None:
        ids = self._ids
        if sorted(ids.values()) != list(range(len(ids))):
            raise TokenizerError(
                f"{len(ids)} tokens whose ids are not 0 .. {len(ids) - 1}; expected each id once: train a new tokenizer"
            )
        if not any(name in ids for name in _ENDS):
            raise TokenizerError(
                f"no end-of-text token: none of {', '.join(_ENDS)} is in the vocabulary of {len(ids)}; add one with "
                f'tokenizers.Tokenizer.from_file(path).add_special_tokens(["{END}"])'
            )

    @cached_property
    def size(self) -> int:
        """How many tokens a model can write, V."""
        return len(self._ids)

    @cached_property
    def end(self) -> int:
        """The id of the end-of-text token."""
        return next(self._ids[name] for name in _ENDS if name in self._ids)

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int) -> "Tokenizer":
        """Learn byte-level pieces from texts; any text then round-trips byte for byte.

        Parameters:
            texts: to learn from.
            size: tokens, the 256 bytes and the end among them; fewer if the texts do not repeat enough.

        Raises:
            TokenizerError: size < 257, or texts that are not Unicode.

        Cost: about a second per 5 MB.

        Example:
            >>> tokenizer = Tokenizer.train(["no, no, no"], size=260)
            >>> tokenizer.decode(tokenizer.encode(" café [END]"))
            ' café [END]'
        """
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if size < BYTES + 1:
            raise TokenizerError(f"a vocabulary of {size}; expected {BYTES + 1} or more: every byte, and the end")
        library: Any = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        library.train_from_iterator(map(_unicode, texts), trainer)
        return cls(library.to_str())

    @classmethod
    def words(cls, words: Sequence[str]) -> "Tokenizer":
        """Take whole words as tokens, with ids in the order given; texts are split at single spaces.

        Raises:
            TokenizerError: a word that is empty, repeated, holds a space, or is the end token.
        """
        for place, word in enumerate(words):
            if not word or " " in word or word == END:
                raise TokenizerError(f"word {place} is {word!r}; expected one without spaces, not empty, not {END}")
        if len(set(words)) != len(words) or not words:
            twice = sorted({word for word in words if list(words).count(word) > 1})
            raise TokenizerError(f"{len(words)} words, repeated: {twice[:4]}; expected each word once, at least one")
        vocabulary = {word: index for index, word in enumerate((*words, END))}
        end = {
            "id": len(words), "content": END, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }  # fmt: skip
        body = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
            "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": END},
        }  # fmt: skip
        return cls(json.dumps(body, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json.

        Raises:
            TokenizerError: no such file, or one that is truncated or foreign; names the file.
        """
        try:
            return cls(Path(path).read_bytes().decode("utf-8"))
        except OSError as error:
            raise TokenizerError(
                f"{path}: {(error.strerror or str(error)).lower()}; expected a tokenizer.json"
            ) from None
        except UnicodeDecodeError:
            raise TokenizerError(f"{path}: not text; expected a tokenizer.json of the tokenizers library") from None
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, whole or not at all."""
        files.write(path, self.source.encode())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without an end token.

        Raises:
            TokenizerError: a word that a word-level tokenizer does not know, or a text that is not Unicode.
        """
        if self._wordwise:
            return [self._id(word) for word in text.split(" ")] if text else []
        return list(self._library.encode(_unicode(text), add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; end tokens are dropped, bytes that are not UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id outside 0 .. size - 1.
        """
        kept = [int(index) for index in ids]
        wrong = [index for index in kept if not 0 <= index < self.size]
        if wrong:
            raise TokenizerError(f"token id {wrong[0]}; expected 0 .. {self.size - 1}")
        kept = [index for index in kept if index != self.end]
        if self._wordwise:
            return " ".join(self._tokens[index] for index in kept)
        return str(self._library.decode(kept, skip_special_tokens=False))

    def __repr__(self) -> str:
        return f"Tokenizer(size={self.size}, {'words' if self._wordwise else 'pieces'})"

    @cached_property
    def _library(self) -> Any:
        from tokenizers import Tokenizer as Library

        try:
            library = Library.from_str(self.source)
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(
                f"the tokenizers library refuses the tokenizer: {error}; train or load another"
            ) from None
        library.encode_special_tokens = True  # a special token's name within a text is text
        library.no_truncation()
        library.no_padding()
        return library

    @cached_property
    def _body(self) -> Any:
        return json.loads(self.source)

    @cached_property
    def _ids(self) -> dict[str, int]:
        try:
            return _vocabulary(self._body)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise TokenizerError(
                f"no tokenizer.json of the tokenizers library ({type(error).__name__}: {str(error)[:80]}); make one with "
                "Tokenizer.train(texts, size=2048).save(path)"
            ) from None

    @cached_property
    def _wordwise(self) -> bool:
        return _splits_at_spaces(self._body)

    @cached_property
    def _tokens(self) -> list[str]:
        return sorted(self._ids, key=self._ids.__getitem__)

    def _id(self, word: str) -> int:
        index = self._ids.get(word, self.end)
        if index == self.end:
            raise TokenizerError(
                f"the word {word!r} is unknown; this tokenizer has {self.size - 1} whole words, separated by single "
                f"spaces, such as {', '.join(self._tokens[:4])}"
            )
        return index


def _unicode(text: str) -> str:
    """Return the text if it can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text is not Unicode: {error}; decode it with errors='strict' first") from None
    return text


def _vocabulary(body: Any) -> dict[str, int]:
    """Return the id of every token of a tokenizer.json."""
    vocabulary = body["model"]["vocab"]
    if isinstance(vocabulary, list):  # a unigram model lists (token, score)
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    ids = {str(token): int(index) for token, index in vocabulary.items()}
    ids.update({str(added["content"]): int(added["id"]) for added in body.get("added_tokens") or ()})
    return ids


def _splits_at_spaces(body: Any) -> bool:
    """Whether the tokens are words between single spaces."""
    before = body.get("pre_tokenizer") or {}
    plain = before.get("type") == "Split" and before.get("pattern") == {"String": " "}
    return bool(body["model"].get("type") == "WordLevel" and plain and not body.get("normalizer"))
