"""Which layers of a Qwen model have a sliding window."""

from __future__ import annotations

from ...core.layers.fields import Fields

__all__ = ("read_windows",)


def read_windows(config: Fields, num_layers: int) -> tuple[int | None, ...]:
    """A window or None for each layer; empty when no layer has one.

    ``layer_types`` says it layer by layer; without it, layers from ``max_window_layers`` on have
    the window. Nothing counts unless ``use_sliding_window`` is set.

    Raises:
        CheckpointError: for values that do not fit, naming the key.
    """
    if not config.flag("use_sliding_window", False) or not config.has("sliding_window"):
        return ()
    window = config.integer("sliding_window")
    if not config.has("layer_types"):
        first = config.integer("max_window_layers", 28, least=0)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    kinds = config.strings("layer_types")
    known = {"full_attention": None, "sliding_attention": window}
    if len(kinds) != num_layers or not known.keys() >= set(kinds):
        raise config.misfit("layer_types", f"must hold {num_layers} of {', '.join(known)}")
    return tuple(known[kind] for kind in kinds)
