"""Chat templates against transformers' apply_chat_template, and against templates that attack."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from quire.core.errors import CheckpointError, InvalidRequest
from quire.core.text.template import ChatTemplate

from .conftest import load

TEMPLATES = sorted(Path(__file__).parent.glob("templates/*.jinja"))
CHATML = (Path(__file__).parent / "templates/chatml.jinja").read_text()

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a <town> & 'more' – ünïcode",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        },
    }
]
CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"town": "Köln"}},
}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello <b>there</b>"}],
    [
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": " I see.  "},
        {"role": "user", "content": "{{ 7 * 7 }}{% raw %}"},
    ],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": {"degrees": 21, "sky": "clear"}},
    ],
    [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "reasoning": "because"},
    ],
]


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "t")
    (folder / "chat_template.jinja").write_text(request.param.read_text())
    return folder


def test_renders_as_transformers(folder: Path) -> None:
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    rendered = 0
    for chat in CHATS:
        for tools in (None, TOOLS):
            for prompt in (True, False):
                options = {"tools": tools, "add_generation_prompt": prompt}
                try:
                    want = theirs.apply_chat_template(chat, tokenize=False, **options)
                except Exception:
                    with pytest.raises(InvalidRequest) as caught:
                        ours.render_chat(chat, **options)
                    assert caught.value.param == "messages"
                    continue
                rendered += 1
                assert ours.render_chat(chat, **options) == want
                ids = theirs.apply_chat_template(chat, return_dict=False, **options)
                assert ours.encode_chat(chat, **options) == ids
    assert rendered >= 8


def test_continues_the_final_message_as_transformers(folder: Path) -> None:
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("The answer", "The answer  "):
        chat = [*CHATS[0], {"role": "assistant", "content": text}]
        want = theirs.apply_chat_template(
            chat, tokenize=False, continue_final_message=True, add_generation_prompt=False
        )
        got = ours.render_chat(chat, continue_final_message=True, add_generation_prompt=False)
        assert got == want
    with pytest.raises(InvalidRequest, match="exclude"):
        ours.render_chat(chat, continue_final_message=True)


def test_variables_reach_the_template_and_reserved_names_do_not(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "t")
    (folder / "chat_template.jinja").write_text(CHATML)
    tokenizer = load(folder)
    assert "assistant. loud" in tokenizer.render_chat(CHATS[0], template_kwargs={"style": "loud"})
    for name in ("messages", "tools", "add_generation_prompt", "chat_template", "tokenize"):
        with pytest.raises(InvalidRequest, match=name) as caught:
            tokenizer.render_chat(CHATS[0], template_kwargs={name: []})
        assert caught.value.param == "chat_template_kwargs"


def test_a_template_is_found_wherever_a_model_may_keep_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["byte_level"], tmp_path / "t")
    with pytest.raises(InvalidRequest, match="no chat template"):
        load(folder).render_chat(CHATS[0])
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"chat_template": "in settings"}))
    assert load(folder).render_chat(CHATS[0]) == "in settings"
    listed = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    path.write_text(json.dumps(settings | {"chat_template": listed}))
    assert load(folder).render_chat(CHATS[0]) == "plain"
    assert load(folder).render_chat(CHATS[0], tools=TOOLS) == "tools"
    (folder / "chat_template.jinja").write_text("in a file")
    assert load(folder).render_chat(CHATS[0]) == "in a file"
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("more tools")
    assert load(folder).render_chat(CHATS[0], tools=TOOLS) == "more tools"
    mine = tmp_path / "mine.jinja"
    mine.write_text("mine")
    tokenizer = load(folder, chat_template=str(mine))
    assert tokenizer.render_chat(CHATS[0], tools=TOOLS) == "mine"
    mine.write_text("{% if %}")
    with pytest.raises(CheckpointError, match="does not compile"):
        load(folder, chat_template=str(mine)).render_chat(CHATS[0])


DOUBLING = (
    "{{% set ns = namespace(x='x') %}}{{% for i in range(60) %}}{}{{% endfor %}}{{{{ ns.x }}}}"
)


def render(text: str, **kwargs: Any) -> str:
    return ChatTemplate(text, {"bos_token": "<s>"}).render(
        [{"role": "user", "content": "hi"}], **kwargs
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}{{ messages.__class__.__init__.__globals__ }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__ }}{{ strftime_now.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}{{ self._TemplateReference__context }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ ('%s' | format)(messages).__class__ }}{{ lipsum.__globals__ }}",
        "{{ messages.append({'role': 'x'}) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
    ],
)
def test_a_template_reaches_nothing_outside(text: str) -> None:
    try:
        shown = render(text)
    except InvalidRequest:
        return
    assert shown == ""


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in ['x'] * 99 %}{{ b * 999 }}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{{ range(10 ** 9) | list | length }}",
        "{{ 'x' * (10 ** 10) }}",
        "{{ 9 ** 9 ** 9 }}",
        DOUBLING.format("{% set ns.x = ns.x + ns.x %}"),
        DOUBLING.format("{% set ns.x = ns.x ~ ns.x %}"),
        DOUBLING.format("{% set ns.x = [ns.x, ns.x] | join %}"),
        DOUBLING.format("{% set ns.x = ns.x.replace('x', 'xx') %}"),
        DOUBLING.format("{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
        DOUBLING.format("{% set ns.x = '{0}{0}'.format(ns.x) %}"),
        DOUBLING.format("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        DOUBLING.replace("='x'", "=3").format("{% set ns.x = ns.x * ns.x %}"),
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}{{ 'x' | center(1000000000) }}",
    ],
)
def test_a_template_cannot_run_or_grow_without_end(text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match="chat template"):
        render(text)
    assert time.monotonic() - begun < 5


def test_the_templates_own_words_are_passed_on_in_short() -> None:
    with pytest.raises(InvalidRequest, match="alternate, please") as caught:
        render("{{ raise_exception('Roles must alternate, please' ~ 'x' * 5000) }}")
    assert len(str(caught.value)) < 400
    with pytest.raises(InvalidRequest, match="TypeError"):
        render("{{ 1 + 'secret' }}")


@pytest.mark.parametrize("messages", [[], "hi", [1], {"role": "user"}, [{"role": object()}]])
def test_messages_of_the_wrong_kind_are_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate("x", {}).render(messages)
    assert caught.value.param == "messages"


def test_nesting_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested"):
        render("x", template_kwargs={"deep": deep})
