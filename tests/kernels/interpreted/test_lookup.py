"""Runs of tokens found again by Triton's kernel, beside the definition."""

from typing import Any

import pytest
from hypothesis import given, settings

from quire.backends.kernels import lookup
from tests.backends.test_lookup import cases, check


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_BLOCK", 16)
        yield


@given(**cases(4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_lookup(**case: Any) -> None:
    check(lookup.TritonLookup, **case)
