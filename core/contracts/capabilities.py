"""What an implementation can do; ``resolve`` reads it to choose, and to refuse with a reason."""

from collections.abc import Collection

import msgspec

__all__ = ("ANY", "Capabilities")

ANY: frozenset[str] = frozenset({"*"})


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Declared limits of an implementation.

    Attributes:
        devices: torch device types.
        dtypes: names of activation dtypes.
        kv_dtypes: names of KV cache dtypes.
        head_sizes: widths of a head; None for any.
        features: of ``sliding_window``, ``soft_cap``, ``graphs``, ``overlap``,
            ``tensor_parallel``, ``speculation``, ``adapters``, ``deterministic``, ``recorded``,
            ``chosen_tokens``, ``quantizes`` (plain checkpoints, while they are loaded).
    """

    devices: frozenset[str] = ANY
    dtypes: frozenset[str] = ANY
    kv_dtypes: frozenset[str] = ANY
    head_sizes: frozenset[int] | None = None
    features: frozenset[str] = frozenset()

    def missing(
        self,
        *,
        device: str | None = None,
        dtype: str | None = None,
        kv_dtype: str | None = None,
        head_size: int | None = None,
        features: Collection[str] = (),
    ) -> str | None:
        """The first thing asked for that is not there, as words for a message; None if all is."""
        for label, wanted, offered in (
            ("device", device, self.devices),
            ("dtype", dtype, self.dtypes),
            ("kv_dtype", kv_dtype, self.kv_dtypes),
        ):
            if wanted is not None and "*" not in offered and wanted not in offered:
                return f"{label} {wanted} (it has {', '.join(sorted(offered))})"
        if head_size is not None and self.head_sizes and head_size not in self.head_sizes:
            return f"head size {head_size} (it has {', '.join(map(str, sorted(self.head_sizes)))})"
        for feature in features:
            if feature not in self.features:
                return feature.replace("_", " ")
        return None
