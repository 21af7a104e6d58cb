#!/usr/bin/env python3
"""Makes bpe.json, sentencepiece.json and chat.json: small vocabularies and conversations with the expected result.

    pip install tokenizers==0.22.1 regex sentencepiece==0.2.1 transformers==5.15.1 jinja2
    python make_tokenizer_golden.py

bpe.json: the vocabulary is trained here; the ids come from the twenty lines of `encode` below (regular expressions of
the package `regex`, merges by hand), not from the library under test. sentencepiece.json: ids of the package
sentencepiece. chat.json: texts of transformers with jinja2.
"""

import base64
import datetime
import io
import json
import pathlib

import regex
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
CORPUS = (
    """The river runs past the mill and under the old stone bridge, where the children wait for the boats to come home.
When the water is high, the miller opens the gates; when it's low, he'll mend the wheel and say that he wasn't worried.
In 1987 there were 312 houses in the valley, and by 2024 only 45 of them had not been rebuilt at least once or twice.
def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError("negative")\n    return width * height\n
for (int i = 0; i < count; ++i) {\n\ttotal += values[i] * weights[i];\n}\nprintf("%d\\n", total);\n
Der Müller öffnet die Schleusen, wenn das Wasser hoch steht; später flickt er das große Rad und läßt die Kähne vorbei.
La rivière passe près du moulin où les élèves attendent les bateaux; l'été, l'eau est si basse qu'on traverse à pied.
El río pasa junto al molino y los niños esperan los barcos; mañana abrirán las compuertas si el agua sube otra vez.
Река течёт мимо мельницы и под старым каменным мостом, где дети ждут, когда лодки вернутся домой вечером.
川は水車小屋のそばを流れ、古い石の橋の下を通ります。子供たちは舟の帰りを待っています。水が高いとき水門を開けます。
河水流过磨坊，从古老的石桥下穿过，孩子们在那里等着船回家。水位高的时候，磨坊主打开水闸。
""".splitlines()
    * 3
)
TEXTS = [
    "",
    " ",
    "a",
    "The miller's wheel turns.",
    "  two  spaces   three\t\ttabs\n\n\nnewlines \n mixed \r\n end ",
    "It's, we'll, THEY'VE, I'M, don't, 'tis, 're",
    "1 12 123 1234 12345678 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ 1987a a1987",
    "def area(w, h):\n    return w * h  # 100%\n\n\nx = {'a': [1, 2], \"b\": None}\n",
    "if (a<=b && c!=d) { x->y += ~z ^ 0xFF; }",
    "Grüße aus Köln, près du moulin, mañana; Река течёт; 川は流れ、水車。 河水流过磨坊",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀😃 e\u0301 \u00e9 \u200b\ufeff\u00a0x\u3000y",
    "CamelCaseWords and SHOUTING mIxEd ABCdefGHI",
    "https://example.org/a_b?c=1&d=%20#e",
    "\u0000\u0001\u007f",
    "नमस्ते दुनिया สวัสดีชาวโลก 안녕하세요 세계",
    "word" * 40,
    "=" * 30 + "\n" + "- " * 10,
    "$100+<tag>|pipe|`code`^caret~",
    "the<|im_end|>river <|im_start|>user\nhi<tool>x</tool>",
]

# As in the models' own tokenizer.json files and in llama.cpp, written for the package `regex`.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENGLISH = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (
    r"[^\r\n\p{L}\p{N}]?"
    + UPPER
    + "*"
    + LOWER
    + "+{0}|"
    + r"[^\r\n\p{L}\p{N}]?"
    + UPPER
    + "+"
    + LOWER
    + "*{0}|{1}"
    + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST],
    "qwen2": [ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST],
    "tekken": [CASED.replace("{0}", "").replace("{1}", r"\p{N}")],
    "gpt-4o": [CASED.replace("{0}", ENGLISH + "?").replace("{1}", r"\p{N}{1,3}")],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
}
IGNORE_MERGES = {"llama-bpe", "tekken"}
NFC = {"qwen2"}


def byte_alphabet():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def split(text, patterns):
    pieces = [text]
    for pattern in patterns:
        cut = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[at : match.start()], match.group()]
                at = match.end()
            cut.append(piece[at:])
        pieces = [c for c in cut if c]
    return pieces


def encode(text, data, pre):
    ids = {token: i for i, token in enumerate(data["tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(data["merges"])}
    letters = byte_alphabet()
    added = [t for t, kind in zip(data["tokens"], data["token_types"]) if kind in (3, 4)]
    out = []
    for part in regex.split("(" + "|".join(map(regex.escape, sorted(added, key=len, reverse=True))) + ")", text):
        if part in added:
            out.append(ids[part])
            continue
        if pre in NFC:
            import unicodedata

            part = unicodedata.normalize("NFC", part)
        for piece in split(part, PRE[pre]):
            word = [letters[b] for b in piece.encode()]
            if pre in IGNORE_MERGES and "".join(word) in ids:
                out.append(ids["".join(word)])
                continue
            while len(word) > 1:
                best = min(range(len(word) - 1), key=lambda i: ranks.get((word[i], word[i + 1]), 1 << 30))
                if (word[best], word[best + 1]) not in ranks:
                    break
                word[best : best + 2] = [word[best] + word[best + 1]]
            out += [ids[w] for w in word]
    return out


def bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=list(byte_alphabet().values()), special_tokens=[])
    tokenizer.train_from_iterator([line + "\n" for line in CORPUS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + sorted(model["vocab"], key=model["vocab"].get) + ["<tool>", "</tool>"]
    data = {
        "model": "gpt2",
        "tokens": tokens,
        "token_types": [3] * 3 + [1] * len(model["vocab"]) + [4] * 2,
        "merges": [" ".join(m) for m in model["merges"]],
        "bos": 1,
        "eos": 2,
        "unk": 0,
        "pad": 2,
    }
    data["ids"] = {pre: [encode(text, data, pre) for text in TEXTS] for pre in PRE}
    data["texts"] = TEXTS
    return data


def trained(kind, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        vocab_size=420,
        model_type=kind,
        byte_fallback=True,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def sp_case(model, texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return {
        "ids": [processor.encode(t) for t in texts],
        "decoded": [processor.decode(processor.encode(t)) for t in texts],
    }


def sentencepiece_data():
    texts = [t for t in TEXTS if "\0" not in t and "<|" not in t] + ["call <tool> now", "      deep\n    four\n  two"]
    identity = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
    models_ = {
        "bpe": trained("bpe", **identity),  # like Llama 2 and Mistral
        # Like Gemma: no leading space, runs of spaces and markup as user-defined tokens.
        "bpe_no_prefix": trained(
            "bpe", add_dummy_prefix=False, user_defined_symbols=["<tool>", "▁▁", "▁▁▁▁"], **identity
        ),
        "unigram": trained("unigram", **identity),
        "unigram_squeezed": trained("unigram", normalization_rule_name="identity", remove_extra_whitespaces=True),
    }
    data = {"texts": texts, "cases": {}}
    for name, model in models_.items():
        proto = spm_pb2.ModelProto.FromString(model)
        case = sp_case(model, texts)
        case["model"] = base64.b64encode(proto.SerializeToString()).decode()
        if name in ("bpe", "bpe_no_prefix"):
            user = spm_pb2.ModelProto.SentencePiece.USER_DEFINED
            case["gguf"] = {
                "model": "llama",
                # GGUF converters write the spaces of user-defined tokens as spaces.
                "tokens": [p.piece.replace("▁", " ") if p.type == user else p.piece for p in proto.pieces],
                "token_types": [p.type for p in proto.pieces],
                "scores": [p.score for p in proto.pieces],
                "bos": 1,
                "eos": 2,
                "unk": 0,
                "add_space_prefix": name == "bpe",
            }
        data["cases"][name] = case
    return data


CHATML = """{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a miller.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}"""
TOOLS = """{{ bos_token }}{% if tools is defined and tools %}
Tools: {{ tools | tojson }}
{% for tool in tools %}
{{ loop.index0 }}/{{ loop.length }}: {{ tool | tojson(indent=2) }}{{ ", " if not loop.last else "." }}
{% endfor %}
{% else %}
No tools.
{% endif %}
{% for m in messages %}{% generation %}[{{ m['role'].upper() }}] {{ m.content.strip().split('\\n')[0] }}{{ eos_token }}{% endgeneration %}
{% endfor %}
today {{ strftime_now('%d %b %Y') }} {{ documents is none }}"""
ALTERNATE = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- set ns = namespace(count=0, last=none) -%}
{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}
{% if m.content.startswith('skip') %}{% continue %}{% endif %}
{% if m.content == 'stop' %}{% break %}{% endif %}
{% set ns.count = ns.count + 1 %}{% set ns.last = m %}
<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}
{{ (system + '\\n\\n' if loop.first and system else '') ~ m['content'] | trim }}<end_of_turn>
{% endfor %}
{{ ns.count }} {{ ns.last }} {{ [1, 2.0, true, none, 'it\\'s "x"', 1e20, 0.00001] }} {{ {'b': 1, 'a': 'é\\n'} }} {{ true }} {{ none }}
{%- macro show(x, sep=', ') %}{{ x | join(sep) }}{% endmacro %}
{{ show(['a', 'b']) }} {{ messages | map(attribute='role') | list | tojson }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages[-1].get('content', 'none')[:4] }} {{ messages[0].items() | list | length }} {{ 'x' in 'axb' }} {{ '%05.2f' | format(3.14159) }}"""


def chat():
    tools = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": 'It\'s <b>"nice"</b> & naïve',
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"default": 1.5}},
                    "required": ["city"],
                    "empty": [],
                    "none": {},
                },
            },
        }
    ]
    plain = [
        {"role": "user", "content": "  Hello \n"},
        {"role": "assistant", "content": "Hi 👋"},
        {"role": "user", "content": "Größe?\nline"},
    ]
    system = [{"role": "system", "content": "Be brief."}] + plain
    marks = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "skip me"},
        {"role": "user", "content": "stop"},
        {"role": "assistant", "content": "z"},
    ]
    cases = []
    now = 1700000000  # 2023-11-14, in every time zone but those from UTC+2 on; the test sets UTC

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(now, datetime.timezone.utc)

    chat_template_utils.datetime = Fixed
    for name, template, messages, prompt, variables in [
        ("chatml", CHATML, plain, True, {}),
        ("chatml system", CHATML, system, False, {}),
        ("tools", TOOLS, plain, False, {"tools": tools}),
        ("no tools", TOOLS, plain, False, {}),
        ("alternate", ALTERNATE, system, False, {}),
        ("loop controls", ALTERNATE, marks, False, {}),
        ("refused", ALTERNATE, [plain[0], plain[0]], False, {}),
    ]:
        case = {
            "name": name,
            "template": template,
            "messages": messages,
            "add_generation_prompt": prompt,
            "variables": variables,
        }
        try:
            text, _ = chat_template_utils.render_jinja_template(
                conversations=[messages],
                chat_template=template,
                add_generation_prompt=prompt,
                tools=variables.get("tools"),
                bos_token="<s>",
                eos_token="</s>",
            )
            case["text"] = text[0]
        except Exception as error:  # noqa: BLE001
            case["error"] = str(error)
        cases.append(case)
    return {"now": now, "cases": cases}


for file, content in [("bpe.json", bpe()), ("sentencepiece.json", sentencepiece_data()), ("chat.json", chat())]:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    (HERE / file).write_text(text, encoding="utf-8")
    print(file, len(text.encode()))
