"""The architecture in the engine, against the same arithmetic in plain torch, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from quire_example_plugin import tiny

from quire import LLM, SamplingParams
from quire.core.config import Config, PluginsConfig

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def reference(weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token at every position: [T, vocabulary]."""
    w = {name.removesuffix(".weight"): tensor.double() for name, tensor in weights.items()}
    count = len(ids)
    frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    angles = torch.outer(torch.arange(count).double(), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[name]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        half = HEAD_DIM // 2
        turned = torch.complex(x[..., :half], x[..., half:]) * turn
        return torch.cat((turned.real, turned.imag), -1)

    def heads(x: torch.Tensor, name: str, number: int) -> torch.Tensor:
        whole = (x @ w[name].T).view(count, number, HEAD_DIM).transpose(0, 1)
        return whole.repeat_interleave(HEADS // number, 0)

    x = w["model.embed_tokens"][ids]
    hidden = torch.ones(count, count).tril() == 0
    for index in range(2):
        layer = f"model.layers.{index}"
        n = norm(x, f"{layer}.input_layernorm")
        q = rotated(heads(n, f"{layer}.self_attn.q_proj", HEADS))
        k = rotated(heads(n, f"{layer}.self_attn.k_proj", KV_HEADS))
        v = heads(n, f"{layer}.self_attn.v_proj", KV_HEADS)
        scores = (q @ k.transpose(1, 2) / math.sqrt(HEAD_DIM)).masked_fill(hidden, -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        gate = F.silu(n @ w[f"{layer}.mlp.gate_proj"].T) * (n @ w[f"{layer}.mlp.up_proj"].T)
        x = x + mixed @ w[f"{layer}.self_attn.o_proj"].T + gate @ w[f"{layer}.mlp.down_proj"].T
    return (norm(x, "model.norm") @ w["lm_head"].T).log_softmax(-1)


def test_log_probabilities_and_greedy_tokens(tmp_path):
    weights = tiny.write(tmp_path / "parallel")
    config = Config(plugins=PluginsConfig(load=("example",)))
    llm = LLM(tmp_path / "parallel", config=config, dtype="float32", scheduling_policy="shortest")
    ids = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, prompt_logprobs=0)
    (output,) = llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
    whole = reference(weights, ids + output.outputs[0].token_ids)
    for position, token in enumerate(ids[1:]):
        found = output.prompt_logprobs[position + 1][token].logprob
        assert found == pytest.approx(whole[position, token].item(), abs=1e-4)
    expected = whole[len(ids) - 1 : -1].argmax(-1).tolist()
    assert output.outputs[0].token_ids == expected
