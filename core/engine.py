"""The engine: three calls a step, overlapped with the device."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from .config import Config, known, max_draws
from .contracts.executor import Executor, Pending
from .contracts.scheduler import Scheduler, SchedulerSettings
from .errors import EngineDeadError, InvalidRequest
from .memory import freeze, unfreeze
from .metrics import EngineStats
from .registry import Registry
from .request import Request
from .resolve import resolve
from .step import Delta, Outcome, Plan
from .wire import EngineInfo

__all__ = ("Engine",)

logger = logging.getLogger(__name__)


class Engine:
    """Requests in, deltas out, one step a call.

    With overlap a step is planned and launched while the one before still runs, and that one's
    tokens are taken in afterwards:

        host    plan 1 | plan 2 | update 1 | plan 3 | update 2 | ...
        device         | step 1 . . . . . .| step 2 . . . . . .| step 3

    Without it every plan is followed by its own update. Nothing else differs.

    Args:
        scheduler: decides.
        executor: started.
        info: handed to clients.
        overlap: see above.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, info: EngineInfo, *, overlap: bool
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.info = info
        self._depth = 1 if overlap else 0
        self._in_flight: deque[tuple[Plan, Pending]] = deque()

    @classmethod
    def start(
        cls, config: Config, registry: Registry, report: Callable[[str, float], None]
    ) -> Engine:
        """Resolve the configuration, load the model, and be ready for requests.

        Args:
            config: as written.
            registry: with the plugins the configuration names.
            report: called with each phase of the start and its seconds.

        Raises:
            QuireError: what the user must change, before or while loading.
        """
        begun = time.perf_counter()
        resolution = resolve(config, registry)
        report("resolve", time.perf_counter() - begun)
        config = resolution.config
        executor: Executor = registry.make("executor", config.parallel.executor, config, registry)
        model = executor.start(report)
        settings = _settings(config, registry, model.num_blocks)
        policy = registry.make("policy", config.schedule.policy)
        scheduler: Scheduler = registry.make(
            "scheduler", config.schedule.scheduler, settings, policy
        )
        info = EngineInfo(config, resolution.reasons, model.num_blocks, model.vocab_size)
        freeze()
        return cls(scheduler, executor, info, overlap=bool(config.schedule.overlap))

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: when it can never run; nothing was changed.
            Overloaded: when the queue is full.
        """
        vocabulary = self.info.vocab_size
        if not request.prompt_token_ids:
            raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
        if not 0 <= min(request.prompt_token_ids) <= max(request.prompt_token_ids) < vocabulary:
            raise InvalidRequest(f"prompt token ids must be from 0 to {vocabulary - 1}", "prompt")
        params = request.params
        for field, ids in (
            ("allowed_token_ids", params.allowed_token_ids),
            ("logit_bias", params.logit_bias),
            ("stop_token_ids", params.stop_token_ids),
        ):
            if ids and max(ids) >= vocabulary:
                raise InvalidRequest(f"{field} must hold ids below {vocabulary}", field)
        self.scheduler.add(request)

    def abort(self, request_id: str) -> Delta | None:
        """Drop a request in whatever state; its last delta, or None if it is not known."""
        return self.scheduler.abort(request_id)

    def step(self) -> list[Delta]:
        """Plan, execute, update.

        Raises:
            EngineDeadError: when the device is lost; no step can follow.
        """
        plan = self.scheduler.plan()
        if plan is not None:
            self._in_flight.append((plan, self.executor.execute(plan)))
        elif not self._in_flight and self.scheduler.has_work():
            raise EngineDeadError("requests are waiting and none of them can ever run")
        deltas: list[Delta] = []
        while len(self._in_flight) > (0 if plan is None else self._depth):
            deltas += self._update(*self._in_flight.popleft())
        return deltas

    def idle(self) -> bool:
        """Use a moment without work to get ready for more; whether another such call would help."""
        return not self.has_work() and self.executor.idle()

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._in_flight) or self.scheduler.has_work()

    def stats(self) -> EngineStats:
        """Counters and gauges as of now."""
        return self.scheduler.stats()

    def shutdown(self) -> None:
        """Free the device; safe to call twice."""
        self._in_flight.clear()
        unfreeze()
        self.executor.shutdown()

    def _update(self, plan: Plan, pending: Pending) -> list[Delta]:
        try:
            outcome: Outcome = pending.wait()
        except EngineDeadError:
            raise
        except Exception:
            logger.exception("step %d with %d rows failed", plan.step, len(plan.rows))
            return self.scheduler.fail(plan, "an internal error ended this request")
        return self.scheduler.update(plan, outcome)


def _settings(config: Config, registry: Registry, num_blocks: int) -> SchedulerSettings:
    schedule, cache, speculation = config.schedule, config.cache, config.speculation
    method = speculation.method
    features = registry.get("speculator", method).capabilities.features if method else ()
    return SchedulerSettings(
        num_blocks=num_blocks,
        block_size=known(cache.block_size),
        max_num_seqs=known(schedule.max_num_seqs),
        max_num_batched_tokens=known(schedule.max_num_batched_tokens),
        max_model_len=known(config.model.max_model_len),
        max_waiting=schedule.max_waiting,
        chunked_prefill=schedule.chunked_prefill,
        prefix_caching=cache.prefix_caching,
        max_drafts=known(speculation.num_speculative_tokens) if method else 0,
        max_draws=max_draws(config),
        adaptive=speculation.adaptive,
        watches="hidden_states" in features,
    )
