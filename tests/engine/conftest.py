"""The embedded model, loaded once."""

import pytest

from quire import LLM


@pytest.fixture(scope="session")
def llm():
    llm = LLM("demo", dtype="float32", max_num_seqs=32)
    yield llm
    llm.engine.scheduler.check()
    assert llm.engine.stats().blocks_used == 0
    llm.shutdown()
