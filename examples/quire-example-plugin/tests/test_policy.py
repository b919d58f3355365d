from quire_example_plugin.policy import ShortestPrompt

from quire.core.contracts.policy import Candidate


def candidate(name: str, tokens: int, arrival: float) -> Candidate:
    return Candidate(name, 0, arrival, tokens, 16, "")


def test_fewer_tokens_first_then_arrival():
    waiting = [candidate("a", 9, 0.0), candidate("b", 3, 2.0), candidate("c", 3, 1.0)]
    order = sorted(waiting, key=ShortestPrompt().rank)
    assert [found.request_id for found in order] == ["c", "b", "a"]


def test_the_longest_is_sent_back():
    running = [candidate("a", 3, 0.0), candidate("b", 9, 0.0), candidate("c", 5, 0.0)]
    assert ShortestPrompt().victim(running) == 1
