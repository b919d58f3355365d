"""The inline executor: one device, in the engine's own process and thread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..config import Config
from ..contracts.capabilities import Capabilities
from ..contracts.executor import Executor, ModelInfo, Pending
from ..contracts.platform import Platform
from ..errors import EngineDeadError
from ..registry import Registry
from ..run.build import build_runner
from ..run.runner import Runner
from ..step import Outcome, Plan

__all__ = ("InlineExecutor",)


class InlineExecutor(Executor):
    """Runs plans where it is called.

    On a GPU ``execute`` returns while the device works; on a CPU the step is done when it returns.
    """

    capabilities = Capabilities(features=frozenset({"overlap", "speculation"}))

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._runner: Runner | None = None
        self._platform: Platform | None = None

    def start(self, report: Callable[[str, float], None]) -> ModelInfo:
        @contextmanager
        def phase(name: str) -> Iterator[None]:
            begun = time.perf_counter()
            yield
            report(name, time.perf_counter() - begun)

        self._runner, self._platform, info = build_runner(self._config, self._registry, phase)
        return info

    def execute(self, plan: Plan) -> Pending:
        if self._runner is None or self._platform is None:
            raise EngineDeadError("the executor was not started, or was shut down")
        try:
            return self._runner.execute(plan)
        except Exception as error:
            self._check_device(error)
            return _Failed(error)

    def idle(self) -> bool:
        return self._runner is not None and self._runner.idle()

    def shutdown(self) -> None:
        self._runner = None
        if self._platform is not None:
            # What refers to itself holds memory of the device until it is collected.
            gc.collect()
            self._platform.release()

    def _check_device(self, error: Exception) -> None:
        """A device that answers nothing any more is no single request's fault.

        Raises:
            EngineDeadError: when it cannot even be waited for.
        """
        try:
            if self._platform is not None:
                self._platform.synchronize()
        except RuntimeError as failure:
            raise EngineDeadError(f"the device failed: {type(failure).__name__}") from error


class _Failed:
    """A step that failed before it was launched."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def wait(self) -> Outcome:
        raise self._error
