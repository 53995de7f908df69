"""The keys of Qwen in a config.json, which more than one family took over."""

from typing import Any, Final

from demask.denoisers.checkpoints.facts import Configs
from demask.denoisers.checkpoints.family import configured, switches
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
        rope_parameters=rotary(configs),
        tie_word_embeddings=bool(main.get("tie_word_embeddings")),
        use_sliding_window=False,
        pad_token_id=None,
        **more,
    )


def rotary(configs: Configs) -> dict[str, Any]:
    """Return the library's rotary positions: of rope_theta and rope_scaling, or of rope_parameters, the newer way.

    Raises:
        CheckpointError: neither is there, or not an object.
    """
    parameters = configs.main.get("rope_parameters")
    name = "rope_scaling" if parameters is None else "rope_parameters"
    found = configs.main.get(name)
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"{configs.folder}/config.json: {name} = {found!r}; expected null or an object")
    out = {"rope_type": "default", **(found or {})}
    return (
        out
        if parameters is not None and "rope_theta" in out
        else {**out, "rope_theta": configs.need("rope_theta", float)}
    )


def context(config: Any, configs: Configs) -> tuple[int, str]:
    """Return how many positions there are, and where that stands."""
    return configs.need("max_position_embeddings"), "config.json: max_position_embeddings"
