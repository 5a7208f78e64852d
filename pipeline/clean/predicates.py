"""What a predicate of the user's may say: columns, literals, operators and a few functions.

The SQL of polars reads files and the network (`read_csv`, sub-queries over it), and does so while
it is parsed. So a predicate is first read here, word by word, against a list of what is allowed;
whatever is not on the list is refused before polars sees it. A statement needs two names or
literals side by side (`SELECT x`, `FROM 'file'`) or a name that is called, and neither passes.
"""

import re

FUNCTIONS = frozenset(
    (
        *("ABS", "ARRAY_CONTAINS", "ARRAY_LENGTH", "CEIL", "CHAR_LENGTH", "COALESCE", "CONCAT"),
        *("ENDS_WITH", "EXP", "FLOOR", "GREATEST", "IF", "IFNULL", "LEAST", "LEFT", "LENGTH", "LN"),
        *("LOG10", "LOWER", "LTRIM", "MOD", "NULLIF", "OCTET_LENGTH", "POW", "REGEXP_LIKE"),
        *("REPLACE", "RIGHT", "ROUND", "RTRIM", "SQRT", "STARTS_WITH", "STRPOS", "SUBSTR", "TRIM"),
        "UPPER",
    )
)
AGGREGATES = frozenset(("AVG", "COUNT", "FIRST", "LAST", "MAX", "MEDIAN", "MIN", "STDDEV", "SUM"))
_TYPES = frozenset(
    ("BIGINT", "BOOLEAN", "DATE", "DOUBLE", "FLOAT", "INT", "INTEGER", "TEXT", "VARCHAR")
)
# After these a value or an opening bracket comes.
_JOINS = frozenset(
    (
        *("AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "RLIKE", "REGEXP", "BETWEEN"),
        *("CASE", "WHEN", "THEN", "ELSE"),
    )
)
_TOKEN = re.compile(
    r"\s+|(?P<value>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[^\W\d]\w*)|(?P<comment>--|/\*)|(?P<sign>::|[-+*/%()<>=!,|~^@])"
)
LONGEST = 2_000  # characters; a predicate of a program's making can overflow the parser's stack
_VALUE, _CALL = "a value", "a call"  # what can stand before a token, beside signs and keywords


def check(sql: str) -> None:
    """Refuse, with a sentence, all that is not an expression over the columns of one row."""
    if len(sql) > LONGEST:
        raise ValueError(
            f"the predicate that begins {sql[:40]!r} has {len(sql)} characters and may have "
            f"{LONGEST}: write several filters, which all must hold"
        )
    before, at = "", 0
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        if token is None or token["comment"]:
            raise ValueError(_refused(sql, sql[at : at + 12]))
        at = token.end()
        if token["word"]:
            called = sql[at:].lstrip().startswith("(")
            before = _word(sql, token["word"], before, called=called)
        elif token["value"]:
            before = _value(sql, token["value"], before)
        elif token["sign"] == "(" and before in (_VALUE, ")"):  # "read_csv"('...')
            raise ValueError(_refused(sql, sql[at - 1 : at + 12]))
        elif token["sign"]:
            before = token["sign"]


def _word(sql: str, word: str, before: str, *, called: bool) -> str:
    name = word.upper()
    if name in _JOINS:
        return name
    if called:
        if name in AGGREGATES:
            raise ValueError(
                f"{sql!r} is not a valid predicate: {name} is of many rows, and a filter sees each "
                "by itself"
            )
        if name not in FUNCTIONS and name != "CAST":
            raise ValueError(_refused(sql, f"{word}(...)"))
        _value(sql, word, before)
        return _CALL
    if before in ("AS", "::"):
        if name not in _TYPES:
            raise ValueError(_refused(sql, f"{before} {word}"))
        return _VALUE
    if name in ("IS", "AS"):
        return name
    if name == "END":  # of CASE: what it ends is a value
        return _VALUE
    return _value(sql, word, before)


def _value(sql: str, found: str, before: str) -> str:
    """A name or a literal may stand after a sign or a keyword, never after another value."""
    if before in (_VALUE, ")"):
        raise ValueError(_refused(sql, found))
    return _VALUE


def _refused(sql: str, found: str) -> str:
    return (
        f"{sql!r} is not a valid predicate over one row's columns: {found!r} may not stand there; "
        "write comparisons of columns and literals, AND, OR, NOT, IN, LIKE, BETWEEN, CASE, and the "
        f"functions {', '.join(sorted(FUNCTIONS))}"
    )
