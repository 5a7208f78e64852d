"""Filters: one crafted text per reason, the formulas behind them, and what they do to real data."""

import base64
import warnings

import numpy as np
import polars as pl
import pytest
from clean_records import data, documents, examples, records, turn

from gristmill.pipeline.clean.filters import Filter, filtered
from gristmill.pipeline.clean.filters.language import Language
from gristmill.pipeline.clean.filters.length import Length
from gristmill.pipeline.clean.filters.license import License
from gristmill.pipeline.clean.filters.phrases import Phrases
from gristmill.pipeline.clean.filters.pii import Pii, iban, luhn
from gristmill.pipeline.clean.filters.prose import Prose
from gristmill.pipeline.clean.filters.refusal import Refusal
from gristmill.pipeline.clean.filters.repetition import Repetition, repeated_share, top_share
from gristmill.pipeline.clean.filters.secrets import Secrets
from gristmill.pipeline.clean.filters.template_leak import TemplateLeak
from gristmill.pipeline.clean.filters.toxicity import Toxicity, toxicity
from gristmill.pipeline.clean.filters.where import Where
from gristmill.pipeline.clean.text import word_hashes, words

PLAIN = (
    "The river rises in the hills to the north of the town and runs through three valleys before "
    "it meets the sea. In spring it carries melted snow, and farmers on both banks open their "
    "gates to let the water reach the meadows. By August little of it is left, and children walk "
    "across the stones to gather blackberries on the other side."
)


def reason(rule: Filter, answer: str, question: str = "Why?") -> str | None:
    return rule.reasons(examples([(question, answer)]))[0]


CRAFTED: list[tuple[Filter, str, str]] = [
    (Length(), "", "too_short"),
    (Length(min_words=3), "two words", "too_short"),
    (Length(max_words=3), "one two three four", "too_long"),
    (TemplateLeak(), "Sure.<|im_end|>\n<|im_start|>user", "template_leak: chatml"),
    (TemplateLeak(), "Yes.<|user|>And then?", "template_leak: roles"),
    (TemplateLeak(), "[INST] go on [/INST]", "template_leak: llama"),
    (TemplateLeak(), "Fine.\n### Response:\nFine.", "template_leak: alpaca"),
    (TemplateLeak(), "Human: hello\n\nAssistant: hello", "template_leak: turns"),
    (TemplateLeak(), "The question is {question}", "template_leak: placeholder"),
    (TemplateLeak(), "Lorem ipsum dolor sit amet", "template_leak: filler"),
    (Phrases(listed=("a testament to",)), "It is A testament, to him.", "phrases: a testament to"),
    (Refusal(), "As an AI language model, I have no opinion.", "refusal"),
    (Refusal(), "I’m sorry, but I can’t help with that.", "refusal"),
    (Refusal(), "I apologize, but I cannot provide this.", "refusal"),
    (Refusal(), "I cannot fulfill this request.", "refusal"),
    (Refusal(), "Unfortunately I am not able to answer.", "refusal"),
    (Repetition(), f"{PLAIN}\n" * 4, "repetition: lines 0.75"),
    (Repetition(lines=1), f"{PLAIN}\n" * 4, "repetition: 5-gram 0.75"),
    (Repetition(), PLAIN + " yes no" * 30, "repetition: top 2-gram"),
    (Prose(), "abcdefghijklmnop " * 60, "prose: mean_word_length 16.0"),
    (Prose(), "word # " * 60, "prose: mean_word_length 2.5"),
    (Prose(word_length=(1, 10)), "word # " * 60, "prose: symbols 0.50"),
    (Prose(), "- children have gathered that\n" * 20, "prose: bullets 1.00"),
    (Prose(symbols=9), "the cat sat and slept ...\n" * 20, "prose: ellipses 1.00"),
    (Prose(), "the 1234 and 5678 " * 30, "prose: alphabetic 0.50"),
    (Prose(), "alpha beta gamma delta " * 30, "prose: stop_words"),
    (Language(), "Das Haus steht am Ende einer langen Straße im Dorf.", "language: de"),
    (Language(), "我们明天早上一起去学校的图书馆看书,然后在食堂吃午饭,好吗？", "language: zh"),
    (Language(allowed=("de", "fr")), PLAIN, "language: en"),
    (Pii(), "write to jane.doe@acme-corp.io today", "pii: email"),
    (Pii(), "call +49 30 901820 now", "pii: phone"),
    (Pii(region="US"), "call (650) 253-0000 now", "pii: phone"),
    (Pii(), "card 4111 1111 1111 1111 please", "pii: card"),
    (Pii(), "card 378282246310005 please", "pii: card"),
    (Pii(), "account DE89 3704 0044 0532 0130 00 at the bank", "pii: iban"),
    (Pii(), "account GB29NWBK60161331926819 IS mine", "pii: iban"),
    (Pii(), "ping 151.101.1.69 and see", "pii: ip"),
    (Pii(), "ping 2a00:1450:4001:812::200e and see", "pii: ip"),
    (Pii(), "my number is 219-09-9999", "pii: ssn"),
    (Pii(), "ann.lee@acme-corp.io:hunter2", "pii: email"),
    (Pii(), "ann.lee@acme-corp.io: yes/no", "pii: email"),
    (Pii(), "mail ann.lee@acme-corp.io, see file:/etc/hosts", "pii: email"),
    (Pii(), "digit@acme-corp.io", "pii: email"),
    (Pii(), "8.8.8.8 is a public resolver", "pii: ip"),
    (Pii(), "in section 2 ping 151.101.1.69", "pii: ip"),
    (Pii(), "version 1.2.3.4 runs on 151.101.1.69", "pii: ip"),
    (Secrets(), "export AWS_KEY=AKIA" + "QWERTYUIOPASDFGH", "secret: aws_key"),
    (Secrets(), "token ghp_" + "a1B2" * 9, "secret: github_token"),
    (Secrets(), "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", "secret: private_key"),
    (Secrets(), "xoxb-" + "123456789012-1234567890123-" + "a" * 24, "secret: slack_token"),
    (Secrets(), "https://user:hunter2secret@db.corp.net/x", "secret: password_in_address"),
    (Toxicity(), "you are a stupid piece of shit, shut the fuck up", "toxicity"),
    (License(allowed=("MIT",)), "x", "license: unknown"),
    (Where(sql="answer_words > 2"), "one two", "where: answer_words > 2"),
]


@pytest.mark.parametrize(("rule", "answer", "expected"), CRAFTED, ids=[c[2] for c in CRAFTED])
def test_each_reason(rule: Filter, answer: str, expected: str) -> None:
    found = reason(rule, answer)
    assert found is not None
    assert found.startswith(expected)


HARMLESS: list[tuple[Filter, str]] = [
    (Length(), "72"),
    (TemplateLeak(), "Write f'{name}' or {{x}} in LaTeX; a [link] and # a heading"),
    (Refusal(), "I can't believe how good it is! " + "Yes. " * 60 + "As an AI model"),
    (Refusal(), "Sorry for the delay. The answer is 4."),
    (Refusal(), "Refusals often read: he cannot come."),
    (Repetition(), PLAIN),
    (Repetition(), "no no no no no"),  # too short to tell
    (Prose(), PLAIN),
    (Language(), PLAIN),
    (Language(), "72"),
    (Language(), "```\ndef größe(straße): return straße\n```"),
    (Pii(), "mail user@example.com or 10.0.0.1 or ::1, version 1.2.3, total 1234567890123456"),
    (Pii(), "4111 1111 1111 1112 has a wrong check digit; DE89 3704 0044 0532 0130 01 too"),
    (Pii(), "git@github.com:org/repo.git, or ssh://git@gitlab.acme.io/x, or ssh -T git@github.com"),
    (Pii(), "scp ann@backup.acme-corp.io:~/notes . && scp deploy@acme-corp.io:/srv/x ."),
    (Pii(), "hg clone dev@hosting.acme-corp.io:tools.git"),
    (Pii(), "Use version 4.18.0.193, v4.18.0.193 or kernel 4.18.0.193; pip install x==4.18.0.193"),
    (Pii(), "See section 3.2.1.4, sections 3.2.1.5 and 3.2.1.6, § 4.1.1.2, Figure 4.1.1.2"),
    (Pii(), "## 3.2.1.4 Scope\n\nText.\n### 3.2.1.5 Limits"),
    (Pii(), "in 1998-2004, 3 + 4 = 7, 000-12-3456, 12:30:45 and $1,000,000.00"),
    (Secrets(), "AKIAIOSFODNN7EXAMPLE is in the manual; password = getpass()"),
    (Toxicity(), PLAIN),
    (Toxicity(), ""),
    (Where(sql="answer_words > 2"), "one two three"),
]


@pytest.mark.parametrize(
    ("rule", "answer"),
    HARMLESS,
    ids=[f"{type(r).__name__}-{i}" for i, (r, _) in enumerate(HARMLESS)],
)
def test_what_stays(rule: Filter, answer: str) -> None:
    assert reason(rule, answer) is None


def test_the_first_filter_that_objects_gives_the_reason() -> None:
    pool = examples(
        [("q", "fine"), ("q", ""), ("q", "a@b-corp.io"), ("q", "as an AI model a@b-corp.io")]
    )
    rules = [Length(), Refusal(), Pii()]
    drops = filtered([pool[2:], pool[:2]], rules)
    assert drops.select("row", "reason", "stage").rows() == [
        (1, "too_short", "clean"),
        (2, "pii: email", "clean"),
        (3, "refusal", "clean"),
    ]
    assert drops["duplicate_of"].null_count() == 3
    assert filtered([], rules).height == 0
    assert filtered([examples([])], rules).height == 0


def test_parts_that_are_looked_at() -> None:
    """A refusal in the question is no refusal; a leaked address in it is a leak."""
    assert reason(Refusal(), "Because.", "As an AI model, why?") is None
    assert reason(Pii(), "Because.", "Who is a@b-corp.io?") == "pii: email"
    pair = records(
        "pair",
        [
            {
                "prompt": [turn("user", "q")],
                "chosen": [turn("assistant", "fine")],
                "rejected": [turn("assistant", "As an AI model, no.")],
            }
        ],
    )
    assert Refusal().reasons(pair).to_list() == [None]  # the chosen answer counts


def test_licences() -> None:
    names = ["MIT", "cc-by-nc-4.0", "CC BY 4.0", None, "Apache License 2.0", "my own"]
    pool = documents(["x"] * 6).with_columns(license=pl.Series(names))
    rule = License(allowed=("mit", "CC-BY-4.0", "Apache-2.0"))
    assert rule.reasons(pool).to_list() == [
        None,
        "license: cc-by-nc-4.0",
        None,
        "license: unknown",
        None,
        "license: my own",
    ]
    free = License(allowed=("MIT",), unknown=True)
    assert free.reasons(pool).to_list()[3] is None
    with pytest.raises(ValueError, match="'creative commons' names no licence for certain"):
        License(allowed=("creative commons",))


def test_predicates() -> None:
    pool = examples([("Why?", "a b c"), ("How?", "a"), ("What?", "")])
    pool = pool.with_columns(license=pl.Series(["mit", "mit", None]))
    rule = Where(sql="license = 'mit' AND (answer_words > 2 OR prompt_text LIKE 'How%')")
    assert rule.reasons(pool).is_null().to_list() == [True, True, False]  # null is not yes
    with pytest.raises(ValueError, match="is no SQL predicate"):
        Where(sql="license = = 'mit'")
    with pytest.raises(ValueError, match=r"cannot be asked.*answer_words"):
        Where(sql="colour = 'red'").reasons(pool)
    with pytest.raises(ValueError, match="is not a valid predicate"):
        Where(sql="answer_words + 1").reasons(pool)
    with pytest.raises(ValueError, match="is not a valid predicate"):
        Where(sql="MAX(answer_words) > 1").reasons(pool)


OUTSIDE = [
    "user_id IN (SELECT column_1 FROM read_csv('{}'))",
    "EXISTS (SELECT 1 FROM read_csv('{}'))",
    "(SELECT 1 FROM read_parquet('{}')) > 0",
    "user_id = (SELECT * FROM '{}')",
    "user_id IN (FROM read_json('{}'))",
    "read_csv('{}')",
    "\"read_csv\"('{}')",
    "user_id IN (TABLE records)",
    "user_id IN (VALUES (1))",
    "user_id IN (WITH t AS (SELECT 1) SELECT * FROM t)",
    "user_id = 'a'; DROP",
    "user_id = 'a' -- {}",
    "user_id = 'a' /* {} */",
    "E'{}' = user_id",
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_predicates_never_leave_the_row(tmp_path, monkeypatch, sql: str) -> None:
    """Refused before polars sees them: it reads files while it parses."""
    secret = tmp_path / "secret.csv"
    secret.write_text("the-first-line\n")

    def never(*_: object) -> None:
        raise AssertionError("polars was asked")

    monkeypatch.setattr(pl, "sql_expr", never)
    with pytest.raises(
        ValueError, match="is not a valid predicate over one row's columns"
    ) as error:
        Where(sql=sql.format(secret))
    assert "the-first-line" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sql",
    [
        "NOT (license IS NULL) AND license <> 'it''s'",
        "license IN ('mit', '(SELECT') OR \"license\" = '--'",
        "CASE WHEN answer_words > 2 THEN TRUE ELSE license = 'mit' END",
        "CAST(row AS DOUBLE) * 2 >= -1.5e1 AND row::int % 2 = 0",
        "STARTS_WITH(LOWER(answer_text), 'a') AND LENGTH(prompt_text) BETWEEN 1 AND 9",
        "answer_text NOT LIKE '%x%' AND prompt_text ~ '^[A-Z]\\w+'",
        "COALESCE(license, 'none') || '!' = 'none!' OR ARRAY_LENGTH(messages) = 2",
    ],
)
def test_predicates_over_a_row(sql: str) -> None:
    assert len(Where(sql=sql).reasons(examples([("Why?", "a b c"), ("How?", "x")]))) == 2


def test_a_predicate_is_of_bounded_length() -> None:
    with pytest.raises(ValueError, match="write several filters"):
        Where(sql="NOT " * 1_000 + "TRUE")


# Again and again, each makes a careless pattern try every beginning or every division of a text.
SLOW = (
    *("a", "1 ", "@", "a@a.", "//", "://a:b", "eyJ", "eyJa.", "sk-", "AB12CD34_", "[INSERT", "\n"),
    *("0:", "1.1.1.1.", "I am sorry ", "Human: \n", "+1 650 253 000 ", "1   ", "://", "\u6c49"),
)


@pytest.mark.parametrize("seed", SLOW)
def test_no_text_takes_quadratic_time(seed: str) -> None:
    """300,000 bytes a text: quadratic patterns took minutes on several of these."""
    text = seed * (300_000 // len(seed.encode()))
    rules: list[Filter] = [
        *(Length(), TemplateLeak(), Refusal(), Repetition(), Prose(), Language()),
        *(Pii(), Pii(region="US"), Secrets(), Toxicity()),
    ]
    pool = examples([("q", text), ("q", f"{text} mail jane@acme-corp.io //")])
    for rule in rules:
        assert len(rule.reasons(pool)) == 2
    assert Pii(kinds=("email",)).reasons(pool).to_list()[1] == "pii: email"


def test_tokens_in_the_middle_of_a_run() -> None:
    """Where the published patterns were put aside, what they find is still found."""
    header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    payload = "eyJzdWIiOiIxMjM0NTY3ODkwIn0"
    key = "sk-proj-" + "a1B2" * 5 + "T3BlbkFJ" + "c3D4" * 5
    found = {
        f"token={header}.{payload}.c2lnbmF0dXJl": "secret: jwt",
        f"x.{header}.{payload}": "secret: jwt",
        f"{header}.no-json": None,
        f"OPENAI={key}!": "secret: openai_key",
        f"sk-EXAMPLE-{key[3:]}": None,
        key[3:]: None,
        "//registry.npmjs.org/:_authToken=npm_abcdef": "secret: npm_token",
        "a //x/:_authToken= 01234567-89ab-cdef-0123-456789abcdef": "secret: npm_token",
        "//:_authToken=npm_abcdef": None,
        "registry/:_authToken=npm_abcdef": None,
    }
    assert {text: reason(Secrets(), text) for text in found} == found


def test_a_header_that_nests_too_deep_is_no_token() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 99_999).decode().rstrip("=")
    assert deep.startswith("eyJ")
    assert reason(Secrets(), f"{deep}.{deep}") is None


def test_phone_numbers_among_many_digits() -> None:
    """In a table the matcher is shown pieces: a number that a cut divides is seen in the next."""
    table = "| 12 | 345 " * 60
    for shift in range(0, 200, 7):
        text = f"{'x' * 20}{table}{' ' * (shift % 11)}{'| 7 ' * (shift // 4)}+49 30 901820 {table}"
        assert reason(Pii(kinds=("phone",)), text) == "pii: phone"
        assert reason(Pii(kinds=("phone",)), text.replace("+49 30 901820", "30 1820")) is None


def test_checksums() -> None:
    """Published test numbers hold; changing any digit breaks them."""
    for number in ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"):
        assert luhn(number)
        for at in range(len(number)):
            digit = str((int(number[at]) + 1) % 10)
            assert not luhn(number[:at] + digit + number[at + 1 :])
    for account in (
        "DE89370400440532013000",
        "GB29NWBK60161331926819",
        "FR1420041010050500013M02606",
    ):
        assert iban(account)
        assert not iban(account[:-1] + str((int(account[-1]) + 1) % 10))
        assert not iban(account + "1")


def test_unknown_kind_of_private_data() -> None:
    with pytest.raises(ValueError, match="there is no kind 'fax'; there are: email"):
        Pii(kinds=("fax",))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_shares_of_repeated_ngrams_equal_a_plain_loop(n: int) -> None:
    rng = np.random.default_rng(n)
    lines = [" ".join(rng.choice(list("abc"), int(k))) for k in rng.integers(0, 40, 30)]
    hashes = word_hashes(pl.Series(lines))
    top, again = top_share(*hashes, n), repeated_share(*hashes, n)
    for i, line in enumerate(lines):
        w = words(line)
        grams = [tuple(w[j : j + n]) for j in range(len(w) - n + 1)]
        most = max((grams.count(g) for g in grams), default=0)
        covered = {j + k for j, g in enumerate(grams) if g in grams[:j] for k in range(n)}
        size = max(1, len(w))
        assert top[i] == pytest.approx(min(1, n * most / size) if most > 1 else 0)
        assert again[i] == pytest.approx(len(covered) / size)


def test_a_long_text_is_as_toxic_as_its_worst_passage() -> None:
    bad = "you are a stupid piece of shit, shut the fuck up"
    alone, inside = toxicity(pl.Series([bad, f"{PLAIN} {PLAIN}"]))
    assert alone > 0.9 > inside
    words_before = " ".join(PLAIN.split()[:40])
    assert toxicity(pl.Series([f"{words_before} {bad}"]))[0] == pytest.approx(alone)


def test_blocks_and_order_change_nothing() -> None:
    pool = examples(("q", c[1]) for c in CRAFTED)
    rules: list[Filter] = [Length(), TemplateLeak(), Refusal(), Repetition(), Pii(), Toxicity()]
    whole = filtered([pool], rules)
    mixed = pool.sample(fraction=1.0, shuffle=True, seed=3)
    assert whole.height > 15
    assert filtered([mixed[:7], mixed[7:]], rules).equals(whole)


def test_language_on_twelve_parallel_texts() -> None:
    """XQuAD: every paragraph goes unless its language was asked for, and stays if it was."""
    rows = data("quality/xquad_parallel_12lang.jsonl")
    pool = documents([r["text"] for r in rows])
    for asked in (("en",), ("de", "zh", "th")):
        gone = Language(allowed=asked).reasons(pool).is_not_null()
        wrong = [r["lang"] for r, g in zip(rows, gone, strict=True) if g == (r["lang"] in asked)]
        assert len(wrong) <= 0.01 * len(rows), wrong


def test_language_on_a_thousand_rare_languages() -> None:
    rows = data("quality/bigbench_language_id.jsonl")
    rare = [r["text"] for r in rows if r["language"] != "English"]
    assert Language().reasons(documents(rare)).is_not_null().mean() >= 0.9  # type: ignore[operator]


def test_repetition_tells_runaway_text_from_answers() -> None:
    """A base model's runaway text goes, a tuned model's answers to the same prompts stay."""
    rows = data("quality/selfinstruct_model_ladder.jsonl")
    share = {
        model: Repetition()
        .reasons(examples((r["instruction"], r["responses"][model]) for r in rows))
        .is_not_null()
        .mean()
        for model in ("davinci", "text-davinci-003")
    }
    assert share["davinci"] >= 0.9  # type: ignore[operator]
    assert share["text-davinci-003"] <= 0.2  # type: ignore[operator]


def test_false_alarms_on_clean_rows() -> None:
    pool = examples((r["question"], r["answer"]) for r in data("sft/gsm8k_train.jsonl")[:500])
    rules = [Length(), TemplateLeak(), Refusal(), Language(), Pii(), Secrets(), Toxicity()]
    assert filtered([pool], rules).height <= 0.002 * pool.height


def test_nothing_warns_at_import() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(Language(), PLAIN) is None
