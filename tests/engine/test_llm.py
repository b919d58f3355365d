"""LLM on the embedded model, as a script uses it."""

import gc
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
import transformers

from quire import LLM, SamplingParams
from quire.core.config import Config, ModelConfig, ScheduleConfig
from quire.core.errors import CapacityError, CheckpointError, ConfigError, InvalidRequest
from quire.core.step import Delta
from tests.engine.driver import Driver, make_config

DEMO = Path(__file__).parents[2] / "plugins" / "demo" / "model"
PROMPTS = ["def add(a, b):", "import os\n", "class Stack:\n", "x = [1, 2"]


def test_a_vllm_quick_start_runs_with_the_import_changed(capfd) -> None:
    prompts = ["Hello, my name is", "The capital of France is"]
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    llm = LLM(model="demo")
    assert llm.get_tokenizer() is llm.tokenizer
    outputs = llm.generate(prompts, sampling_params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt == prompt
        completion = output.outputs[0]
        assert completion.text == llm.tokenizer.decode(completion.token_ids)
        assert len(completion.token_ids) == 16 or completion.finish_reason == "stop"
    assert "prompts: 100%" in capfd.readouterr().err


def test_greedy_text_and_scores_are_those_of_transformers(llm) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert output.prompt_token_ids == ids[0].tolist()
        whole = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :]
        assert output.outputs[0].token_ids == whole.tolist()
    scored = llm.score(PROMPTS[0], use_tqdm=False)[0]
    ids = torch.tensor([scored.prompt_token_ids])
    with torch.no_grad():
        exact = model(ids).logits[0].double().log_softmax(-1)
    assert scored.prompt_logprobs is not None
    assert scored.prompt_logprobs[0] is None
    for position, entry in enumerate(scored.prompt_logprobs[1:], 1):
        token = scored.prompt_token_ids[position]
        assert entry[token].logprob == pytest.approx(float(exact[position - 1, token]), abs=1e-4)


def test_steps_are_whole_unless_somebody_reads_what_is_decoded() -> None:
    def largest_beside_decodes(*, read: bool) -> int:
        llm = LLM("demo", max_num_batched_tokens=2048, enable_prefix_caching=False)
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
        sizes: list[int] = []
        step = llm.engine.step

        def watched() -> list[Delta]:
            deltas = step()
            sizes.append(llm.engine.stats().step_tokens)
            return deltas

        llm.engine.step = watched  # type: ignore[method-assign]
        stream = llm.stream("def add(a, b):", params) if read else None
        if stream is not None:
            next(stream)
        prompts = [{"prompt_token_ids": [5 + index] * 150} for index in range(12)]
        llm.generate(prompts, params, use_tqdm=False)
        llm.shutdown()
        return max(sizes)

    # 12 prompts of 150 tokens fit a step; half a step is 1,024 tokens.
    assert largest_beside_decodes(read=False) == 1800
    assert largest_beside_decodes(read=True) == 1024


def test_what_an_engine_keeps_is_not_searched_for_garbage() -> None:
    before = gc.get_freeze_count()
    llm = LLM("demo")
    assert gc.get_freeze_count() > 10_000
    llm.shutdown()
    assert gc.get_freeze_count() <= before


def test_chat_answers_a_sum(llm) -> None:
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    output = llm.chat(messages, SamplingParams(temperature=0, max_tokens=30), use_tqdm=False)[0]
    assert "42" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"
    assert "<|" not in output.outputs[0].text


def test_seeded_requests_are_the_same_alone_and_in_any_batch(llm) -> None:
    params = SamplingParams(seed=7, max_tokens=24, temperature=1.2, top_p=0.95, n=3)
    alone = llm.generate(PROMPTS[0], params, use_tqdm=False)[0]
    noise = SamplingParams(max_tokens=40, ignore_eos=True, top_k=5, presence_penalty=1.0)
    batch = llm.generate(
        [*PROMPTS[1:], PROMPTS[0], *PROMPTS], [noise] * 3 + [params] + [noise] * 4, use_tqdm=False
    )
    assert [c.token_ids for c in batch[3].outputs] == [c.token_ids for c in alone.outputs]
    assert len({tuple(c.token_ids) for c in alone.outputs}) == 3


def test_stop_strings_and_stop_tokens(llm) -> None:
    plain = llm.generate("import os\n", SamplingParams(temperature=0, max_tokens=30))[0].outputs[0]
    word = plain.text.split()[1]
    cut = plain.text.index(word)
    for include in (False, True):
        params = SamplingParams(
            temperature=0, max_tokens=30, stop=word, include_stop_str_in_output=include
        )
        found = llm.generate("import os\n", params, use_tqdm=False)[0].outputs[0]
        assert found.text == plain.text[: cut + len(word) * include]
        assert (found.finish_reason, found.stop_reason) == ("stop", word)
    token = plain.token_ids[5]
    params = SamplingParams(temperature=0, max_tokens=30, stop_token_ids=[token])
    found = llm.generate("import os\n", params, use_tqdm=False)[0].outputs[0]
    assert found.stop_reason == token
    assert found.token_ids == plain.token_ids[: plain.token_ids.index(token) + 1]
    assert found.text == llm.tokenizer.decode(found.token_ids[:-1])


def test_logprobs_say_what_was_drawn(llm) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3)
    found = llm.generate(PROMPTS[0], params, use_tqdm=False)[0].outputs[0]
    assert len(found.logprobs) == len(found.token_ids)
    for token, entry in zip(found.token_ids, found.logprobs, strict=True):
        assert entry[token].rank == 1
        assert len(entry) == 3
        assert math.exp(sum(0 for _ in entry)) and entry[token].logprob <= 0
    total = sum(e[t].logprob for t, e in zip(found.token_ids, found.logprobs, strict=True))
    assert found.cumulative_logprob == pytest.approx(total)


def test_prompts_come_in_every_form(llm) -> None:
    ids = llm.tokenizer.encode("import os")
    params = SamplingParams(temperature=0, max_tokens=4)
    forms = ["import os", {"prompt": "import os"}, {"prompt_token_ids": ids}, ids]
    outputs = llm.generate(forms, params, use_tqdm=False)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1
    for wrong in ({"text": "x"}, {"prompt_token_ids": ["a"]}, [], {"prompt_token_ids": [9999]}):
        with pytest.raises(InvalidRequest) as refused:
            llm.generate([wrong], params, use_tqdm=False)
        assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("prompts", "params", "more", "param"),
    [
        (None, None, {}, "prompt"),
        (3, None, {}, "prompt"),
        ([None], None, {}, "prompt"),
        ("x", {"temperature": 0}, {}, "sampling_params"),
        (["x"], [None], {}, "sampling_params"),
        (["x"], [SamplingParams()] * 2, {}, "sampling_params"),
        (["x", "y"], None, {"priority": [1]}, "priority"),
        (["x", "y"], None, {"priority": [1, 2, 3]}, "priority"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(llm, prompts, params, more, param):
    with pytest.raises(InvalidRequest) as refused:
        llm.generate(prompts, params, use_tqdm=False, **more)
    assert refused.value.param == param
    assert not llm.engine.has_work()


def test_nothing_asked_is_nothing_answered(llm, capfd) -> None:
    assert llm.generate([]) == llm.score([]) == llm.chat([]) == []
    assert capfd.readouterr().err == ""


def test_a_bad_prompt_among_good_ones_starts_nothing(llm) -> None:
    with pytest.raises(InvalidRequest, match="the context"):
        llm.generate(["fine", [5] * 3000], SamplingParams(), use_tqdm=False)
    assert llm.engine.has_work() is False


def test_streams_may_be_read_in_turns_and_beside_others(llm) -> None:
    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    wanted = [output.outputs[0].text for output in llm.generate(PROMPTS[:3], params)]
    streams = [llm.stream(prompt, params) for prompt in PROMPTS[:2]]
    texts = ["", ""]
    for index in (0, 1, 1, 0):
        texts[index] += next(streams[index]).completions[0].text
    assert llm.generate(PROMPTS[2], params)[0].outputs[0].text == wanted[2]
    for index, stream in enumerate(streams):
        for delta in stream:
            texts[index] += "".join(completion.text for completion in delta.completions)
    assert texts == wanted[:2]


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_at_any_moment_leaves_the_engine_whole(llm) -> None:
    plain = SamplingParams(temperature=0, max_tokens=6)
    wanted = [output.outputs[0].token_ids for output in llm.generate(PROMPTS[:2], plain)]
    long = SamplingParams(max_tokens=300, ignore_eos=True)
    rng = random.Random(0)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    stopped = 0
    try:
        for turn in range(16):
            # Wherever it strikes: the moment is not what is tested.
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.1))
            try:
                if turn % 2:
                    llm.generate(PROMPTS * 3, long, use_tqdm=False)
                else:
                    for _ in llm.stream(PROMPTS[0], long):
                        pass
            except KeyboardInterrupt:
                stopped += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            gc.collect()
            llm.engine.scheduler.check()
            again = llm.generate(PROMPTS[:2], plain, use_tqdm=False)
            assert [output.outputs[0].token_ids for output in again] == wanted
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped > 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_closed_stream_leaves_nothing_behind(llm) -> None:
    stream = llm.stream("def f(", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    stream.close()
    assert not llm.engine.scheduler.has_work()


# By vLLM's names: keyword -> value, and the key that it must set.
KEYWORDS = {
    "tokenizer": ("t", "model.tokenizer"),
    "revision": ("r", "model.revision"),
    "dtype": ("bfloat16", "model.dtype"),
    "max_model_len": (64, "model.max_model_len"),
    "quantization": ("awq", "model.quantization"),
    "load_format": ("dummy", "model.load_format"),
    "trust_remote_code": (True, "model.trust_remote_code"),
    "seed": (7, "model.seed"),
    "chat_template": ("c", "model.chat_template"),
    "gpu_memory_utilization": (0.5, "cache.gpu_memory_utilization"),
    "block_size": (32, "cache.block_size"),
    "kv_cache_dtype": ("fp8", "cache.kv_dtype"),
    "enable_prefix_caching": (False, "cache.prefix_caching"),
    "max_num_seqs": (3, "schedule.max_num_seqs"),
    "max_num_batched_tokens": (9, "schedule.max_num_batched_tokens"),
    "enable_chunked_prefill": (False, "schedule.chunked_prefill"),
    "scheduling_policy": ("priority", "schedule.policy"),
    "tensor_parallel_size": (2, "parallel.tensor_parallel_size"),
    "speculative_model": ("demo-draft", "speculation.model"),
    "attention_backend": ("reference", "attention.backend"),
}


@pytest.mark.parametrize("keyword", [*KEYWORDS, "speculative_config"])
def test_every_keyword_sets_its_key_and_nothing_else(keyword: str, monkeypatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(LLM, "_start", lambda self, config, *rest: seen.append(config))
    if keyword == "speculative_config":
        value, key = {"method": "ngram"}, "speculation.method"
        LLM("demo", speculative_config=value)
        wanted = "ngram"
    else:
        value, key = KEYWORDS[keyword]
        LLM(model="demo", **{keyword: value})
        wanted = value
    found, plain = msgspec.to_builtins(seen[0]), msgspec.to_builtins(Config())
    section, name = key.split(".")
    assert found[section].pop(name) == wanted != plain[section].pop(name)
    assert found == plain


@pytest.mark.parametrize(("value", "graphs"), [(True, False), (False, None), (None, None)])
def test_enforce_eager_turns_graphs_off(
    value: bool | None, graphs: bool | None, monkeypatch
) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(LLM, "_start", lambda self, config, *rest: seen.append(config))
    LLM("demo", enforce_eager=value)
    assert seen == [Config(schedule=ScheduleConfig(graphs=graphs))]


def test_what_cannot_be_is_refused_before_work() -> None:
    for keywords, error, words in (
        ({"max_model_len": 4096}, CapacityError, "made for 2048"),
        ({"quantization": "awq"}, ConfigError, "is not quantized"),
        ({"tensor_parallel_size": 2}, ConfigError, "runs one device"),
        ({"speculative_config": "demo-draft"}, ConfigError, "speculative_config must be a dict"),
        ({"kv_cache_dtype": "fp8", "attention_backend": "cpu"}, ConfigError, "kv_dtype fp8"),
        ({"max_tokens": 3}, ConfigError, "no keyword 'max_tokens'"),
        ({"max_num_seqs": "many"}, ConfigError, "max_num_seqs"),
        ({"enforce_eager": "yes"}, ConfigError, "enforce_eager must be True or False"),
        ({"model": "no-such/model/at-all"}, CheckpointError, "no-such"),
    ):
        with pytest.raises(error, match=words):
            LLM(**{"model": "demo"} | keywords)


def test_a_model_larger_than_the_machine_is_refused_before_any_of_it_is_read(tmp_path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(DEMO, folder)
    rows = psutil.virtual_memory().total // 256  # Of 256 values of two bytes: twice the memory.
    size = rows * 512
    entry = {"dtype": "BF16", "shape": [rows, 256], "data_offsets": [0, size]}
    header = msgspec.json.encode({"model.embed_tokens.weight": entry})
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)  # A hole, which takes no room on the disk.
    phases: list[str] = []
    config = Config(model=ModelConfig(name=str(folder)))
    with pytest.raises(CapacityError) as refused:
        LLM.from_config(config, on_phase=lambda name, seconds: phases.append(name))
    assert f"weights take {size / 2**30:.1f} GiB" in str(refused.value)
    assert "use a smaller or quantized model" in str(refused.value)
    assert "weights" not in phases


def test_a_cache_too_small_for_the_context_says_what_would_fit() -> None:
    with pytest.raises(CapacityError, match=r"set model.max_model_len to 36 or less"):
        Driver(make_config("demo", cache={"num_blocks": 10}))


def test_more_slots_than_memory_holds_says_what_to_lower() -> None:
    with pytest.raises(CapacityError, match=r"lower .* schedule\.max_num_seqs"):
        Driver(make_config("demo", schedule={"max_num_seqs": 10**9}))


def test_a_request_that_breaks_the_step_dies_alone(llm, monkeypatch) -> None:
    """The planted fault is in the model itself, for one token id."""
    runner = llm.engine.executor._runner
    forward = runner.model.forward

    def faulty(token_ids, positions, attend, **more):
        if bool((token_ids == 4000).any()):
            raise RuntimeError("planted")
        return forward(token_ids, positions, attend, **more)

    good = SamplingParams(temperature=0, max_tokens=12)
    wanted = llm.generate(PROMPTS, good, use_tqdm=False)
    monkeypatch.setattr(runner.model, "forward", faulty)
    bad = {"prompt_token_ids": [10, 11, 4000, 12]}
    outputs = llm.generate([*PROMPTS[:2], bad, *PROMPTS[2:]], good, use_tqdm=False)
    assert outputs[2].outputs[0].finish_reason == "error"
    assert "planted" not in str(outputs[2].outputs[0].error)
    kept = [output.outputs[0].token_ids for output in outputs[:2] + outputs[3:]]
    assert kept == [output.outputs[0].token_ids for output in wanted]


def test_output_that_is_no_number_ends_that_request_alone(llm, monkeypatch) -> None:
    model = llm.engine.executor._runner.model
    logits = model.logits

    def broken(hidden):
        found = logits(hidden)
        found[0] = float("nan")
        return found

    monkeypatch.setattr(model, "logits", broken)
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
    reasons = sorted(output.outputs[0].finish_reason for output in outputs)
    assert reasons == ["error", "length", "length", "length"]


@pytest.mark.parametrize("overlap", [False, True])
def test_memory_stops_growing(overlap: bool) -> None:
    # Bytes in use by glibc's account: the process's pages also hold what its allocator keeps.
    program = f"""
import ctypes, gc
from quire import LLM, SamplingParams
from quire.core.config import Config, ScheduleConfig
class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
account = ctypes.CDLL(None).mallinfo2
account.restype = Account
llm = LLM("demo", config=Config(schedule=ScheduleConfig(overlap={overlap})))
sizes = []
for part in range(8):
    prompts = [[part + 5, i % 4000 + 5] * (2 + i % 9) for i in range(128)]
    llm.generate(prompts, SamplingParams(max_tokens=8, ignore_eos=True, seed=1), use_tqdm=False)
    gc.collect()
    now = account()
    sizes.append(now.uordblks + now.hblkhd)
print(*sizes)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    sizes = [int(size) / 2**20 for size in done.stdout.split()]
    assert max(sizes[4:]) - max(sizes[:4]) < 0.5, sizes  # 512 requests: a KiB each


def test_settings_that_leave_no_token_end_the_request_and_no_other(llm) -> None:
    wanted = llm.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=8))[0]
    only = llm.tokenizer.encode("a", add_special_tokens=False)[0]
    for changes in ({"bad_words": ["a"]}, {"bad_words": ["aa"]}):
        dead_end = SamplingParams(allowed_token_ids=[only], max_tokens=8, **changes)
        plain = SamplingParams(temperature=0, max_tokens=8)
        ended, other = llm.generate([PROMPTS[1], PROMPTS[0]], [dead_end, plain], use_tqdm=False)
        assert ended.outputs[0].finish_reason in ("stop", "length")
        assert set(ended.outputs[0].token_ids) <= {only}
        assert other.outputs[0].token_ids == wanted.outputs[0].token_ids
    impossible = SamplingParams(allowed_token_ids=[only], bad_words=["a"], max_tokens=8)
    completion = llm.generate("x = ", impossible, use_tqdm=False)[0].outputs[0]
    assert (completion.finish_reason, completion.token_ids) == ("stop", [])
