"""Templates that do nothing with contents but copy them: known as such, and nothing else is."""

import pytest

from kdkit.alignment.jinja.copying import copies_plain, is_plain
from kdkit.alignment.templates import CHATML, ChatTemplate, ContentChangedError, Message
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.errors import UserError

LOOP = "{{% for m in messages %}}{}{{% endfor %}}"

QWEN2_5 = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- else %}{{- 'Be kind.' }}{%- endif %}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}{{- tool_call.arguments | tojson }}{%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
"""
LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% set content = '<|start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|end|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"""
COPIES = {
    "chatml": CHATML,
    "Qwen 2.5": QWEN2_5,
    "Llama 3": LLAMA3,
    "joined": LOOP.format("{{ m.role ~ ': ' ~ m.content }}"),
    "stripped": LOOP.format("{{ (m['content'] + eos_token).strip() }}"),
    "asked for its type": LOOP.format("{% if m.content is string %}{{ m.content }}{% endif %}"),
    "counted messages": LOOP.format("{{ m.content }}{% if loop.index == messages | length %}.{% endif %}"),
    "one of two": LOOP.format("{{ m.content if m.role == 'user' else '>' + m.content }}"),
}
DOES_MORE = {
    "a filter": "{{ m.content | upper }}",
    "a filter of all": "{{ ('' + m.content) | replace('x', 'y') }}",
    "a method": "{{ m.content.replace('x', 'y') }}",
    "what is stripped": "{{ m.content.strip('x') }}",
    "a part": "{{ m.content[1:] }}",
    "a part behind a marker": "{{ m.content.split('</think>')[-1] }}",
    "a question": "{% if 'x' in m.content %}!{% endif %}{{ m.content }}",
    "a comparison": "{{ m.content if m.content != 'x' else 'y' }}",
    "its length": "{{ m.content }}{{ m.content | length }}",
    "letters": "{% for letter in m.content %}{{ letter }}{% endfor %}",
    "a name": "{% set c = m.content %}{{ c | upper }}",
    "a name of two kinds": "{{ m.content }}{% set c = '' %}{% set c = c + m.content %}{{ c[:3] }}",
    "a namespace": "{% set ns = namespace(c='') %}{% set ns.c = m.content %}{{ ns.c[:3] }}",
    "a block": "{% filter upper %}{{ m.content }}{% endfilter %}",
    "a set block": "{% set c %}{{ m.content }}{% endset %}{{ c[:3] }}",
    "a macro": "{% macro f(c) %}{{ c[:3] }}{% endmacro %}{{ f(m.content) }}",
    "values": "{% for v in m.values() %}{{ v }}{% endfor %}",
    "get": "{{ m.get('content')[:3] }}",
    "a key by name": "{% set key = 'content' %}{{ m[key][:3] }}",
    "the neighbour": "{{ loop.previtem.content[:3] if loop.previtem is defined }}{{ m.content }}",
    "the loop under another name": "{% set l = loop %}{{ l.previtem.content[:3] }}{{ m.content }}",
    "the message": "{{ m }}",
    "all messages": "{{ messages | tojson }}",
    "a filter of messages": "{{ messages | map(attribute='content') | join }}",
    "two names": "{% for a, b in m.items() %}{{ b[:3] }}{% endfor %}",
    "a test of its own": "{{ m.content if m.content is lower }}",
    "a repetition": "{{ m.content * 2 }}",
    "an argument": "{{ '{}'.format(m.content)[:3] }}",
    "a part of a part": "{{ (m | items | list)[1][1] }}",
    "no syntax": "{% if %}",
}


def template(text):
    """Make a template of a small tokenizer."""
    tokenizer = train_tokenizer(["a question, an answer"] * 4, 290, ("<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize("name", COPIES)
def test_templates_that_copy_are_known_and_do(name):
    assert copies_plain(COPIES[name])
    found = template(COPIES[name])
    hostile = (
        "x",
        "{{ 7 * 7 }}",
        "<b>&amp;</b>",
        "</think>",
        "a\n\nb",
        "user",
        "'\\n\"",
        "None",
        "\ue0000\ue001",
        "%s",
    )
    for content in hostile:
        assert is_plain(content)
        for roles in (("user", "assistant"), ("system", "user", "assistant", "user", "assistant")):
            around = found.around(roles)
            messages = [Message(role, f"{content}{number}") for number, role in enumerate(roles)]
            wanted = around[0] + "".join(m.content + after for m, after in zip(messages, around[1:], strict=True))
            assert found.render([messages]) == [wanted]
            assert found.check([messages]) == [None]


@pytest.mark.parametrize("name", DOES_MORE)
def test_a_template_that_may_do_more_is_not_said_to_copy(name):
    assert not copies_plain(LOOP.format(DOES_MORE[name]))


def test_what_is_not_plain_is_rendered(monkeypatch):
    found = template(LLAMA3)
    rendered = []
    render = found.render
    monkeypatch.setattr(found, "render", lambda rows, *given: rendered.extend(rows) or render(rows, *given))
    plain, spaces = (Message("user", "q"), Message("assistant", "a")), (Message("user", " q"), Message("assistant", ""))
    found.around(("user", "assistant"))
    rendered.clear()
    assert found.check([plain, spaces, plain]) == [None, (True, False), None]
    assert rendered == [spaces]


@pytest.mark.parametrize("change", ["m.content | replace('x', 'y')", "m.content.split('x')[0]", "m.content[:40]"])
def test_a_template_that_changes_some_contents_is_found(change):
    found = template(LOOP.format("{{ '>' + (" + change + ") + '<' }}"))
    fine = (Message("user", "q"), Message("assistant", "a"))
    changed = (Message("user", "q"), Message("assistant", "a" * 30 + "x" + "a" * 30))
    assert found.check([fine, fine]) == [None, None]
    with pytest.raises(ContentChangedError) as error:
        found.check([fine, changed])
    assert error.value.number == 1


def test_a_template_that_drops_a_role_is_found_without_rendering_rows():
    dropping = LOOP.format("{% if m.role != 'system' %}{{ m.content }}{% endif %}")
    assert copies_plain(dropping)
    with pytest.raises(UserError, match="drops the system message"):
        template(dropping).check([[Message(role, role) for role in ("system", "user", "assistant")]])
