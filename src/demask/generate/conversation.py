"""Conversations as prompts."""

from collections.abc import Mapping, Sequence

from demask.errors import GenerateError
from demask.generate.template import Tokens

Messages = str | Sequence[Mapping[str, str]]


def written(messages: Messages, tokenizer: Tokens, template: str | None) -> str:
    """Return the prompt that a conversation is, by the tokenizer's template or another one.

    Raises:
        GenerateError: messages that are none, or no template.
        TokenizerError: a template that cannot write this conversation.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list | tuple) or not messages:
        raise GenerateError(
            f"messages = {messages!r}; expected a text, or messages such as [{{'role': 'user', 'content': 'hello'}}]"
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(x), str) for x in ("role", "content")):
            raise GenerateError(
                f"message {number} is {message!r}; expected a role and a content, such as "
                "{'role': 'user', 'content': 'hello'}"
            )
    known = getattr(tokenizer, "chat", None)
    if template is None and known is None:
        raise GenerateError(
            "this model has no chat template; continue a text with generate, or give a Jinja template: "
            "chat(messages, template='..')"
        )
    if template is not None:
        from demask.denoisers.checkpoints import ChatTemplate

        known = ChatTemplate(template, known.special if known is not None else ())
    return known.write(messages)  # type: ignore[union-attr,no-any-return]
