"""The plainest scheduler that keeps the contract: one sequence at a time, no block ever shared."""

from collections import deque

from quire.core.contracts.scheduler import Scheduler
from quire.core.errors import InvalidRequest, Overloaded
from quire.core.metrics import EngineStats
from quire.core.request import Request
from quire.core.step import Delta, Newcomer, Plan, Row


class OneByOne(Scheduler):
    def __init__(self, settings, policy) -> None:
        self.settings = settings
        self.waiting: deque[Request] = deque()
        self.running: Request | None = None
        self.epoch = 0
        self.flight: deque[int] = deque()
        self.step = 0

    def add(self, request: Request) -> None:
        longest = len(request.prompt_token_ids) + request.max_tokens
        room = (self.settings.num_blocks - 1) * self.settings.block_size
        if longest > min(room, self.settings.max_model_len):
            raise InvalidRequest("too long", "max_tokens")
        if len(self.waiting) >= self.settings.max_waiting:
            raise Overloaded("the queue is full")
        self.waiting.append(request)

    def abort(self, request_id: str) -> Delta | None:
        if self.running is not None and self.running.request_id == request_id:
            self._end()
            return Delta(request_id, [], "abort")
        for request in self.waiting:
            if request.request_id == request_id:
                self.waiting.remove(request)
                return Delta(request_id, [], "abort")
        return None

    def plan(self) -> Plan | None:
        newcomers = []
        if self.running is None:
            if not self.waiting:
                return None
            self.running = self.waiting.popleft()
            self.tokens = list(self.running.prompt_token_ids)
            self.computed = 0
            self.drawing = False
            self.blocks = 0
            request = self.running
            newcomers = [
                Newcomer(0, list(self.tokens), len(self.tokens), request.seed, request.params)
            ]
        count = min(len(self.tokens) - self.computed, self.settings.max_num_batched_tokens)
        if self.drawing or count == 0:
            return None
        end = self.computed + count
        missing = -(-end // self.settings.block_size) - self.blocks
        new = list(range(self.blocks + 1, self.blocks + 1 + missing))
        self.blocks += missing
        self.drawing = end == len(self.tokens)
        plan = Plan(self.step, newcomers, [Row(0, self.computed, count, new, self.drawing)])
        self.computed = end
        self.step += 1
        self.flight.append(self.epoch)
        return plan

    def update(self, plan: Plan, outcome) -> list[Delta]:
        if self.flight.popleft() != self.epoch or not outcome.tokens[0]:
            return []
        (token,) = outcome.tokens[0]
        self.tokens.append(token)
        self.drawing = False
        request = self.running
        emitted = len(self.tokens) - len(request.prompt_token_ids)
        reason = "length" if emitted >= request.max_tokens else None
        if token in request.stop_ids:
            reason = "stop"
        if reason:
            self._end()
        return [Delta(request.request_id, [token], reason)]

    def fail(self, plan: Plan, message: str) -> list[Delta]:
        if self.flight.popleft() != self.epoch:
            return []
        name = self.running.request_id
        self._end()
        return [Delta(name, [], "error", error=message)]

    def forget_prefixes(self) -> None:
        pass

    def has_work(self) -> bool:
        return self.running is not None or bool(self.waiting)

    def stats(self) -> EngineStats:
        used = self.blocks if self.running is not None else 0
        running = int(self.running is not None)
        return EngineStats(self.step, running, len(self.waiting), used)

    def check(self) -> None:
        if self.running is None and self.has_work() and not self.waiting:
            raise RuntimeError("work without a request")

    def _end(self) -> None:
        self.running = None
        self.epoch += 1
