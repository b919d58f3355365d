"""Each hook, called through the registry as the engine calls it."""

import pluggy
import pytest

from quire.core.hooks import PROJECT, Manifest, QuireHooks, hookimpl
from quire.core.metrics import CompletionRecord, RequestRecord
from quire.core.registry import DEFAULT_PLUGINS, Registry

RECORD = RequestRecord(
    request_id="r",
    num_prompt=3,
    num_cached=0,
    max_tokens=4,
    arrival=0.0,
    completions=[
        CompletionRecord(
            finish_reason="stop",
            num_generated=1,
            queued=0.0,
            first_token=1.0,
            finished=1.0,
            token_gaps=[],
        )
    ],
)


def test_quire_manifest_is_answered_once_by_every_plugin():
    answers = Registry().hooks.hook.quire_manifest()
    assert len(answers) == len(DEFAULT_PLUGINS)
    assert all(isinstance(answer, Manifest) for answer in answers)
    for answer in answers:
        assert {part.kind for part in answer.provides} <= answer.contracts.keys()


def test_quire_request_finished_reaches_every_observer():
    seen = []

    class Observer:
        @hookimpl
        def quire_request_finished(self, record: RequestRecord) -> None:
            seen.append(record)

    registry = Registry()
    registry.hooks.register(Observer())
    registry.hooks.register(Observer())
    registry.hooks.hook.quire_request_finished(record=RECORD)
    assert seen == [RECORD, RECORD]


def test_an_implementation_with_another_argument_is_refused():
    class Wrong:
        @hookimpl
        def quire_request_finished(self, result):
            return None

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(QuireHooks)
    with pytest.raises(pluggy.PluginValidationError):
        manager.register(Wrong())
