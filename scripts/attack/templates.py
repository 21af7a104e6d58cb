"""Chat templates."""

from harness import CASES


def template_case(name, text):
    def run(f):
        f.template(text)
        outcome = f.run("chat", "m", "-n", "2", stdin="hi\n")
        assert outcome.code == 1, f"exit code {outcome.code}: {outcome.err[-300:]}"
        assert len(outcome.err) < 5000, f"{len(outcome.err)} bytes of message"
        assert "chat_template" in outcome.err or "tokenizer_config.json" in outcome.err, outcome.err[-300:]
        f.within(outcome)

    run.__name__ = name
    CASES.append(run)


template_case(
    "template_nested_value",
    "{% set n=namespace(a=[]) %}{% for i in range(1000) %}{% for j in range(200) %}{% set n.a=[n.a] %}{% endfor %}"
    "{% endfor %}",
)
template_case("template_unary_operators", "{{ " + "-" * 100000 + "1 }}")
template_case(
    "template_doubled_text",
    '{% set n=namespace(s="aaaaaaaa") %}{% for i in range(40) %}{% set n.s=n.s~n.s %}{% endfor %}',
)
template_case(
    "template_doubled_list",
    "{% set n=namespace(s=[1]) %}{% for i in range(40) %}{% set n.s=n.s+n.s %}{% endfor %}{{ n.s|length }}",
)
template_case("template_of_long_output", "{% for i in range(6) %}{{ 'a '*1000000 }}{% endfor %}")
template_case("template_of_one_long_word", "{% for i in range(4) %}{{ 'a'*1000000 }}{% endfor %}")
template_case("template_long_exception", "{{ raise_exception('x' * 80000) }}")
template_case(
    "template_that_spins",
    '{% set n=namespace(s="a"*1000000) %}{% for a in range(10000) %}{% for b in range(1000) %}'
    '{% set x=n.s|replace("a","b") %}{% endfor %}{% endfor %}',
)
