"""Loading every kernel that steps will use, before anybody waits for one."""

from __future__ import annotations

from ..contracts.platform import Platform
from ..request import SamplingParams
from ..step import Newcomer, Plan, Row
from .runner import Runner

__all__ = ("warm_up",)

# Prompt lengths between which attention and products change their kernels.
_PROMPTS = (2, 16, 128, 1024)


def warm_up(runner: Runner, platform: Platform) -> None:
    """Compile what was never compiled on this machine, many kernels at a time, then load them all.

    Args:
        runner: without a cache.
        platform: of the runner's device.
    """
    if platform.device_type == "cpu":
        # One kernel serves every number of tokens.
        runner.allocate(1 + -(-_PROMPTS[0] // runner.attention.block_size))
        _small_steps(runner, 0, _PROMPTS[:1])
        return
    runner.allocate(2)
    with platform.compiling():
        _small_steps(runner, 0, _PROMPTS)
    _small_steps(runner, runner.limits.max_drafts, _PROMPTS)
    platform.synchronize()


def _small_steps(runner: Runner, drafts: int, prompts: tuple[int, ...]) -> None:
    """Prompts, each with drafts behind it where results mean something."""
    longest = runner.limits.max_model_len - 1 - 2 * drafts
    plain = SamplingParams(top_p=0.9, top_k=50)
    penalised = SamplingParams(top_p=0.9, top_k=50, frequency_penalty=0.1)
    for index, count in enumerate(prompts):
        params = plain if index else penalised
        count = max(1, min(count, longest))
        newcomer = Newcomer(0, [0] * count, count, 0, params)
        blocks = [0] * -(-(count + 1 + 2 * drafts) // runner.attention.block_size)
        row = Row(0, 0, count, blocks, True, 0, 0, drafts)
        runner.execute(Plan(0, [newcomer], [row])).wait()
        if drafts:
            row = Row(0, count, 1 + drafts, [], True, drafts, 0, drafts)
            runner.execute(Plan(0, [], [row])).wait()
    runner.decode_sizes()
