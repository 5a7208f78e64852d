"""Chat templates within bounds: the text of transformers, and an end to every loop."""

import pytest

from gristmill.pipeline.models.chat_template import TooMuchWork, Work, render
from gristmill.pipeline.models.chat_tokenizer import STEPS, TULU_TEMPLATE
from gristmill.pipeline.models.tiny import TEMPLATE, byte_tokenizer
from gristmill.pipeline.signals.views import Dialogue

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>&</b> 日本\n"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello", "reasoning": "so"},
    {"role": "user", "content": "2+2"},
    {"role": "assistant", "content": "", "name": None, "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": [2, None]}}}
    ]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "4"},
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Sum 'of' \"two\""}}]
# In the manner of the templates in use: the last turns apart, thoughts taken off, calls as JSON.
LIKE_QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = message.reasoning_content | default('') %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' }}
        {%- if loop.index0 > ns.last or loop.last %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {%- generation %}{{- content }}{%- endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function %}
            {{- '<call>{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments | tojson(indent=2) }}{{- '}</call>' }}
            {%- for key, value in call.arguments.items() if value is number %}
                {{- loop.index ~ key ~ "=" ~ value }}{%- if not loop.last %},{% endif %}
            {%- endfor %}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" and loop.previtem.role == "assistant" %}
        {{- '<tool>' + message.content | trim + '</tool>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
SMALL = {
    "macros": "{% macro say(m, sep='|') %}{{ m.role }}{{ sep }}{{ caller() if caller }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% call say(m, sep='-') %}in{% endcall %}{% endfor %}",
    "break": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m }}{% endfor %}",
    "joins": "{{ messages | map(attribute='role') | join(', ') }}{{ ','.join(['a', 'b']) }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "texts": "{{ 'a-b'.replace('-', '+') }}{{ 'x' | center(9) }}{{ '%s=%03d' % ('n', 7) }}"
    "{{ '{:>4}|{}'.format(1, 'y') }}{{ 'a\nb' | indent(2) }}{{ 'é' | upper }}{{ 'a' * 3 }}",
    "sets": "{% set x %}<{{ bos_token }}{{ eos_token }}>{% endset %}{{ x | length }}{{ x }}"
    "{% set d = dict(a=1, b=2) %}{{ d | tojson }}{{ d | dictsort }}{{ date_string }}",
    "numbers": "{{ 7 // 2 }}{{ 2 ** 5 }}{{ 7 % 4 }}{{ 1 + 2 }}{{ [1] + [2] }}{{ 3 in [3] }}",
    "escapes": "{{ '<a & b>' | tojson }}{{ '<a>' | e }}{{ undefined_name }}{{ none }}{{ true }}",
}


def work(**changes) -> Work:
    return Work(**{"steps": STEPS, "characters": 4_000_000, **changes})


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("template", [TEMPLATE, TULU_TEMPLATE, LIKE_QWEN, *SMALL.values()])
def test_the_text_is_that_of_transformers(template, tools, generation):
    tokenizer = byte_tokenizer()
    theirs = tokenizer.apply_chat_template(
        CHAT,
        tools=tools,
        chat_template=template,
        add_generation_prompt=generation,
        tokenize=False,
        date_string="01 Jan 2025",
    )
    special = tokenizer.special_tokens_map
    assert render(template, CHAT, tools, special, work(), generation=generation) == theirs


HOSTILE = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
    "{% endfor %}",
    "loops of nothing": "{% for a in range(100000) %}{% for b in range(100000) if false %}"
    "{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a long body": "{% for a in range(100000) %}{% for b in range(100) %}"
    + "{% if a %}{% endif %}" * 5_000
    + "{% endfor %}{% endfor %}",
    "much text": "{% for a in range(100000) %}" + "x" * 100_000 + "{% endfor %}",
    "much kept text": "{% set x %}{% for a in range(100000) %}" + "x" * 100_000 + "{% endfor %}"
    "{% endset %}",
    "doubling by ~": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by +": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by writing": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "a nest of lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "a nest compared": "{% set n = namespace(x=(1,), y=(1,)) %}{% for i in range(99) %}"
    "{% set n.x = (n.x, n.x) %}{% set n.y = (n.y, n.y) %}{% endfor %}{{ n.x == n.y }}",
    "a nest hashed": "{% set n = namespace(x=(1,)) %}{% for i in range(99) %}"
    "{% set n.x = (n.x, n.x) %}{% endfor %}{{ messages[0][n.x] }}",
    "times": "{{ 'a' * 10 ** 10 }}",
    "power": "{{ (10 ** 100) ** 100 }}",
    "pad": "{{ 'a'.ljust(10 ** 9) }}",
    "centre": "{{ 'a' | center(10 ** 9) }}",
    "fill": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "star": "{{ '%*d' % (10 ** 9, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "replace": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "replace filter": "{% set x = 'a' * 1000000 %}{{ x | replace('a', x) }}",
    "join": "{% set x = 'a' * 1000000 %}{{ x.join(range(100000) | map('string')) }}",
    "join filter": "{% set x = 'a' * 1000000 %}{{ range(100000) | join(x) }}",
    "indent": "{{ ('\n' * 1000000) | indent('a' * 1000000) }}",
    "indented JSON": "{% set n = namespace(x=range(9999) | list) %}{% for i in range(500) %}"
    "{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson(indent=200) }}",
    "slices": "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{% set y = x[1:] %}"
    "{% endfor %}",
    "searches": "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in x %}"
    "{% endif %}{% endfor %}",
    "filters": "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{% set y = x | upper %}"
    "{% endfor %}",
    "length": "x" * 200_001,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_template_goes_on_for_ever(name):
    with pytest.raises(TooMuchWork):
        render(HOSTILE[name], CHAT, None, {}, work(), generation=False)


@pytest.mark.parametrize(
    "template",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{{ ('a' * 1000).translate({97: 'b' * 1000}) }}",
        "{{ 'a'.encode() }}",
        "{{ 'a' | random }}",
        "{{ lipsum() }}",
        "{% include 'x' %}",
        "{{ dict.fromkeys }}{{ ''.__class__.__mro__ }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set x = messages.append(1) %}",
    ],
)
def test_what_chats_do_not_need_is_an_error_of_the_row(template):
    with pytest.raises(Exception, match=r".") as caught:
        render(template, CHAT, None, {}, work(), generation=False)
    assert isinstance(caught.value, Exception)


def test_steps_are_counted_alike_each_time_and_shared_by_a_row():
    one, two = work(), work()
    for w in (one, two):
        render(LIKE_QWEN, CHAT, TOOLS, {}, w, generation=False)
    assert one.steps == two.steps < STEPS
    once = STEPS - one.steps
    few = work(steps=2 * once)
    for _ in range(2):
        render(LIKE_QWEN, CHAT, TOOLS, {}, few, generation=False)
    with pytest.raises(TooMuchWork, match="more steps"):
        render(LIKE_QWEN, CHAT, TOOLS, {}, few, generation=False)


def test_a_long_chat_is_within_its_steps():
    """100 turns; none of its prefixes is one, so that each answer takes four renderings."""
    from gristmill.pipeline.models.chat_tokenizer import ChatTokenizer

    turns = [("user", "Go on."), ("assistant", "And so it goes. " * 40)] * 50
    messages = [{"role": r, "content": c, "extra": None} for r, c in turns]
    chat = ChatTokenizer(tokenizer=byte_tokenizer(), template=LIKE_QWEN, limit=1_000_000)
    encoded = Dialogue().encode({"messages": messages, "tools": None}, chat)
    assert encoded.reason is None
    assert encoded.last == 50
