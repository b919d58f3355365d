"""The byte-level BPE tokenizer that both demonstration models share, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

__all__ = (
    "BOS",
    "CHAT_TEMPLATE",
    "CONTEXT",
    "END",
    "SPECIAL",
    "VOCAB_SIZE",
    "save_tokenizer",
    "train_tokenizer",
)

BOS = "<|endoftext|>"
END = "<|end|>"
SPECIAL = (BOS, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", END)
VOCAB_SIZE = 4096
CONTEXT = 2048

# Digits stand alone, so that numbers line up digit by digit; indentation is one token per run.
# Line ends stand alone too: a prompt that ends in a colon then meets the tokens of training.
_SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}{%- set turns = messages -%}
{%- endif -%}
{%- if system or tools -%}
{{- '<|system|>' + system -}}
{%- if tools -%}
{{- ('\\n' if system else '') + 'Tools:' -}}
{%- for tool in tools -%}
{{- '\\n' + ((tool['function'] if 'function' in tool else tool) | tojson) -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in turns -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['tool_calls'] -%}
{%- for call in message['tool_calls'] -%}
{%- set function = call['function'] if 'function' in call else call -%}
{{- ('\\n' if not loop.first else '') + '{"name": ' + (function['name'] | tojson)
    + ', "arguments": ' -}}
{{- function['arguments'] if function['arguments'] is string
    else (function['arguments'] | tojson) -}}
{{- '}' -}}
{%- endfor -%}
{%- elif message['content'] is string -%}
{{- message['content'] -}}
{%- elif message['content'] -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def _splitter() -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train the tokenizer.

    Args:
        texts: Texts in the proportions the models will see.

    Returns:
        A tokenizer of `VOCAB_SIZE` tokens that puts `BOS` before every text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
            ),
        ]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer's files of a Hugging Face checkpoint.

    Args:
        tokenizer: The trained tokenizer.
        folder: Checkpoint folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": BOS,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "extra_special_tokens": list(SPECIAL[1:5]),
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
