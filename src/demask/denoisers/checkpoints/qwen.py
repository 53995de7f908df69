"""The keys of Qwen in a config.json, which more than one family took over."""

from typing import Any, Final

from demask.denoisers.checkpoints.base import configured, switches
from demask.denoisers.checkpoints.facts import Configs
from demask.errors import CheckpointError

_SWITCHES: Final = {"attention_bias": False, "hidden_act": "silu", "use_sliding_window": False}


def config(configs: Configs, kind: str, **more: Any) -> Any:
    """Return the library's Qwen configuration of a config.json.

    Parameters:
        configs: of the checkpoint.
        kind: "qwen2" or "qwen3".
        more: what only one of the families sets.

    Raises:
        CheckpointError: a size that is not there, or a setting that is not understood.
    """
    switches(configs, _SWITCHES, configs.kind)
    need, main = configs.need, configs.main
    heads, width = need("num_attention_heads"), need("hidden_size")
    if "head_dim" not in more and width % heads:
        raise CheckpointError(
            f"{configs.folder}/config.json: hidden_size = {width} for num_attention_heads = {heads}; expected a multiple"
        )
    scaling = main.get("rope_scaling")
    if scaling is not None and not isinstance(scaling, dict):
        raise CheckpointError(f"{configs.folder}/config.json: rope_scaling = {scaling!r}; expected null or an object")
    return configured(
        kind,
        vocab_size=need("vocab_size"),
        hidden_size=width,
        intermediate_size=need("intermediate_size"),
        num_hidden_layers=need("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads if main.get("num_key_value_heads") is None else need("num_key_value_heads"),
        max_position_embeddings=need("max_position_embeddings"),
        rms_norm_eps=need("rms_norm_eps", float),
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": need("rope_theta", float)},
        tie_word_embeddings=bool(main.get("tie_word_embeddings")),
        use_sliding_window=False,
        pad_token_id=None,
        **more,
    )


def context(config: Any, configs: Configs) -> tuple[int, str]:
    """Return how many positions there are, and where that stands."""
    return configs.need("max_position_embeddings"), "config.json: max_position_embeddings"
