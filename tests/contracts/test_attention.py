"""Attention: every registered backend conforms, and broken ones are caught."""

import pytest
import torch

from quire.backends.attention.reference import Reference
from quire.core.contracts.attention import AttentionBackend
from quire.core.contracts.capabilities import Capabilities
from quire.core.registry import Registry
from quire.testing import ConformanceError, Unchecked, check_backend, check_cache


@pytest.mark.parametrize("name", Registry().names("attention"))
def test_every_registered_backend_conforms(name: str) -> None:
    backend = Registry().get("attention", name)
    try:
        check_backend(backend)
    except Unchecked as reason:
        pytest.skip(str(reason))


class Inexact(Reference):
    def attend(self, *arguments):
        return super().attend(*arguments) * 1.001


class Unturned(Reference):
    def attend(self, layer, q, k, v, prepared, rotation=None):
        return super().attend(layer, q, k, v, prepared)


class Widened(Reference):
    def attend(self, *arguments):
        return super().attend(*arguments).double()


class Forgetful(Reference):
    """Attends to what is new alone."""

    def attend(self, *arguments):
        out = super().attend(*arguments)
        self.allocate(self._num_blocks)
        return out

    def allocate(self, num_blocks):
        self._num_blocks = num_blocks
        super().allocate(num_blocks)


class Selfish(Reference):
    """Keeps keys and values of chosen tokens alone."""

    def attend(self, layer, q, k, v, prepared, rotation=None):
        chosen = prepared.batch.chosen
        if chosen is not None:
            others = torch.ones(len(v), dtype=torch.bool)
            others[chosen.tokens] = False
            v[others] = 0
        return super().attend(layer, q, k, v, prepared, rotation)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Inexact, "is off by"),
        (Unturned, "rotate=True"),
        (Widened, "got torch.float64"),
        (Forgetful, "is off by"),
        (Selfish, "chosen=True"),
    ],
)
def test_a_broken_backend_is_caught(broken: type[AttentionBackend], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_backend(broken)


def test_sizes_that_are_not_honest_are_caught() -> None:
    class Small(Reference):
        def bytes_per_block(self):
            return super().bytes_per_block() // 2

    with pytest.raises(ConformanceError, match="keys and values of every layer"):
        check_cache(Small)


def test_a_device_that_is_not_here_is_no_failure() -> None:
    class Elsewhere(Reference):
        capabilities = Capabilities(devices=frozenset({"quantum"}))

    with pytest.raises(Unchecked, match="quantum"):
        check_backend(Elsewhere)


def test_only_what_is_promised_is_asked_for() -> None:
    class Narrow(Reference):
        capabilities = Capabilities(
            dtypes=frozenset({"bfloat16"}), kv_dtypes=frozenset({"bfloat16"}), head_sizes={64}
        )

        def __init__(self, layers, **keywords):
            assert keywords["kv_dtype"] is torch.bfloat16
            assert {spec.head_dim for spec in layers} == {64}
            assert {(spec.window, spec.soft_cap) for spec in layers} == {(None, None)}
            super().__init__(layers, **keywords)

    check_backend(Narrow)
