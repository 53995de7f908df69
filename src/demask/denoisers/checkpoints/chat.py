"""How a checkpoint writes a conversation as one text: the Jinja template of its tokenizer files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from demask.denoisers.checkpoints.facts import Configs
from demask.errors import CheckpointError, TokenizerError

KEY: Final = "chat_template"
FILES: Final = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class ChatTemplate:
    """A conversation as one text, ready to be answered.

    The template is rendered by transformers, in its sandbox: it cannot reach files or run commands.

    Parameters:
        source: Jinja, as tokenizers publish it.
        special: name and text of the special tokens that it may use.

    Example:
        >>> template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
        >>> template.write([{"role": "user", "content": "hello"}])
        '<user>hello<assistant>'
    """

    source: str = field(repr=False)
    special: tuple[tuple[str, str], ...] = ()

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of a conversation, up to where the answer begins.

        Parameters:
            messages: each with a role and a content.

        Raises:
            TokenizerError: a template that cannot be rendered, or refuses the conversation.
            CheckpointError: transformers or jinja2 are not installed.
        """
        from demask.denoisers.checkpoints.family import native

        module = native("transformers.utils.chat_template_utils")
        conversation = [dict(message) for message in messages]
        try:
            texts, _ = module.render_jinja_template(
                [conversation], chat_template=self.source, add_generation_prompt=True, **dict(self.special)
            )
        except ImportError as error:
            raise CheckpointError(f"chat templates need jinja2 ({error}); pip install 'demask[checkpoints]'") from None
        except Exception as error:  # whatever a foreign template provokes
            raise TokenizerError(
                f"the chat template cannot write this conversation ({type(error).__name__}: {error}); check the roles, or "
                "give another template"
            ) from None
        return str(texts[0])


def find(configs: Configs) -> tuple[ChatTemplate | None, str]:
    """Return the chat template of a checkpoint, and where it stands.

    Raises:
        CheckpointError: a file that holds none, several templates of which none is the default, or files that contradict
            each other.
    """
    found = {name: _source(configs, name) for name in FILES if (configs.folder / name).is_file()}
    inside = configs.bodies.get("tokenizer_config.json", {}).get(KEY)
    if inside is not None:
        found[f"tokenizer_config.json: {KEY}"] = _default(inside, f"{configs.folder}/tokenizer_config.json")
    if not found:
        return None, "nowhere"
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"{configs.folder}: the files contradict each other on the chat template: {', '.join(found)}; remove all "
            "but one, or give the right one as chat=.."
        )
    return ChatTemplate(next(iter(found.values())), special(configs)), ", ".join(found)


def special(configs: Configs) -> tuple[tuple[str, str], ...]:
    """Return the special tokens that the tokenizer files name, bos_token and its kin, with their texts."""
    out: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in configs.bodies.get(name, {}).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                out[key] = text
    return tuple(sorted(out.items()))


def _source(configs: Configs, name: str) -> str:
    path = configs.folder / name
    try:
        text = path.read_text(encoding="utf-8")
        return text if name.endswith(".jinja") else _default(json.loads(text)[KEY], str(path))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: no chat template ({type(error).__name__}); download it again") from None


def _default(value: object, where: str) -> str:
    """Return a template, or of several the one called "default"."""
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        if not isinstance(named.get("default"), str):
            raise CheckpointError(
                f"{where}: chat templates {', '.join(map(repr, named))} and no 'default'; give one as chat=.."
            )
        value = named["default"]
    if not isinstance(value, str):
        raise CheckpointError(f"{where}: {KEY} is {type(value).__name__}; expected the text of a template")
    return value
