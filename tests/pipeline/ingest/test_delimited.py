"""TSV as table writers and as the tools of the field write it: no row is made of several."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.pipeline.ingest.raw_rows import BadRow
from gristmill.pipeline.ingest.readers import format_of

HEADER = ("prompt", "completion")
ROWS = [
    ("q1", "three\nlines\nof text"),
    ('say "hi"', "hi"),
    ("two\nlines", "a"),
    ("a\ttab", "b"),
    ("plain", "c"),
]


def parsed(path) -> list[tuple[str, ...] | str]:
    """The rows of a file, bad ones by their reason."""
    format = format_of(path)
    found: list[tuple[str, ...] | str] = []
    for _, raw in format.items(path):
        try:
            found.append(tuple(format.parse(raw).values()))
        except BadRow as error:
            found.append(str(error))
    return found


def written(rows, quoting: int) -> str:
    made = io.StringIO(newline="")
    writer = csv.writer(made, delimiter="\t", quoting=quoting, lineterminator="\n")
    writer.writerows([HEADER, *rows])
    return made.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_a_table_writer_wrote(tmp_path, quoting):
    (tmp_path / "a.tsv").write_text(written(ROWS, quoting))
    assert parsed(tmp_path / "a.tsv") == ROWS
    broken = written(ROWS, quoting) + "one\tfield\ttoo many\n"
    (tmp_path / "a.tsv").write_text(broken)  # one bad row changes nothing about the others
    assert parsed(tmp_path / "a.tsv") == [*ROWS, "column_count: 3 of 2"]


AS_IT_IS = {
    "a quote that spans": ["plain\tzero", '"Begin\tone', "a river\tThe Danube.", 'end"\ttwo'],
    "inches": ['How long?\t5" or 6"', '"Quoted" word\tyes'],
    "never closes": ["first\tone", '"Begin\ttwo', "last\tthree"],
    "in the answer": ['a\t"Begin', "b\tand", 'c\tend"', "d\te"],
    "a whole field, and others plain": ['"Quoted"\tyes', "plain\tno"],
    "opens in two": ['"a\t"b', "c\td"],
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", AS_IT_IS)
def test_quotes_of_a_file_that_quotes_nothing(tmp_path, name, end):
    lines = AS_IT_IS[name]
    (tmp_path / "a.tsv").write_bytes(end.join(["prompt\tcompletion", *lines, ""]).encode())
    assert parsed(tmp_path / "a.tsv") == [tuple(line.split("\t")) for line in lines]


def test_faults_of_a_line_cost_the_line(tmp_path):
    raw = b'prompt\tcompletion\nq\tcaf\xe9\n"q\tok\n\nr\tb\tc\ns\tt\n'
    (tmp_path / "a.tsv").write_bytes(raw)
    found = parsed(tmp_path / "a.tsv")
    assert found == ["not_utf8", ('"q', "ok"), "column_count: 3 of 2", ("s", "t")]
    format = format_of(tmp_path / "a.tsv", most=40)
    assert [n for n, _ in format.items(tmp_path / "a.tsv")] == [2, 3, 5, 6]
    (tmp_path / "a.tsv").write_text("a\ta\n1\t2\n")
    with pytest.raises(ValueError, match="names a column twice in its first line: a; give"):
        parsed(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text("x" * 50 + "\n")
    with pytest.raises(ValueError, match="opens with a line of more than 40 bytes"):
        list(format_of(tmp_path / "a.tsv", most=40).items(tmp_path / "a.tsv"))


FIELD = st.text(st.sampled_from('ab"\t\n ,'), max_size=6).filter(lambda t: t.strip())


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_fields_of_a_table_writer_come_back(tmp_path_factory, rows):
    """Wherever all fields are quoted and one of them holds a quote, which is doubled."""
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_text(written([('a "b" c', "d"), *rows], csv.QUOTE_ALL), newline="")
    assert parsed(path)[1:] == rows


@given(st.lists(st.tuples(*[st.text(st.sampled_from('ab" '), min_size=1)] * 2), max_size=6))
def test_a_line_is_a_row_where_no_line_breaks_are_quoted(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    rows = [row for row in rows if "".join(row).strip()]
    path.write_text("".join("\t".join(row) + "\n" for row in [HEADER, *rows]))
    found = parsed(path)
    assert len(found) == len(rows)
    for one, row in zip(found, rows, strict=True):
        assert [f.replace('"', "") for f in one] == [f.replace('"', "") for f in row]
