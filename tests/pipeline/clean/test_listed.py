"""Lists of ids: what a person keeps, drops and takes down."""

import re

import polars as pl
import published
import pytest

from gristmill.pipeline.clean.listed import Listed, ids_in, listed, ruled_out, taken_down

ROWS = published.frame(
    [
        {"messages": [published.turn("user", f"Ask {i}"), published.turn("assistant", said)],
         "user_id": f"mine-{i}"}
        for i, said in enumerate(["one", "two", "three", "ONE ", "five"])
    ]
    + [{"messages": [published.turn("user", "ask  0"), published.turn("assistant", "One")]}]
)  # fmt: skip
IDS = ROWS["id"].to_list()


def fallen(**lists):
    lists = Listed(**{name: frozenset(ids) for name, ids in lists.items()})
    found = listed(lambda: [ROWS.head(2), ROWS.tail(4)], lists)
    return dict(found.select("row", "reason").iter_rows())


@pytest.mark.parametrize(
    ("lists", "wanted"),
    [
        ({"keep": IDS[:2]}, dict.fromkeys((2, 3, 4, 5), "not_in_keep_list")),
        ({"drop": IDS[1:2]}, {1: "in_drop_list"}),
        ({"drop": ["mine-4"]}, {4: "in_drop_list"}),
        ({"drop": ["unknown"]}, {}),
        ({"takedown": IDS[:1]}, {0: "takedown", 5: "takedown"}),  # 5 says the same
        ({"takedown": ["mine-0"], "drop": IDS[:1]}, {0: "takedown", 5: "takedown"}),
        ({"sources": ["toy.jsonl"]}, dict.fromkeys(range(6), "takedown: source")),
        ({"sources": ["toy"], "takedown": IDS[:1]}, {0: "takedown", 5: "takedown"}),
        ({"keep": IDS[:2], "drop": IDS[:1]},
         {0: "in_drop_list", **dict.fromkeys((2, 3, 4, 5), "not_in_keep_list")}),
    ],
)  # fmt: skip
def test_lists_rule_rows_out(lists, wanted):
    assert fallen(**lists) == wanted


def test_a_row_that_people_changed_is_still_the_one_that_a_keep_list_names():
    child = ROWS.head(2).with_columns(
        id=pl.Series(["f" * 32, "e" * 32]), meta=pl.Series([f'{{"parents": ["{IDS[0]}"]}}', None])
    )
    found = listed(lambda: [child], Listed(keep=frozenset(IDS[:1])))
    assert found["row"].to_list() == [1]


def test_the_ids_of_rows_that_are_to_fall_are_told_by_either_name():
    lists = Listed(drop=frozenset(IDS[:1]), takedown=frozenset(["mine-3"]), keep=frozenset(["x"]))
    assert ruled_out([ROWS.select("id", "user_id")], lists) == {IDS[0], IDS[3]}


def test_a_keep_list_of_other_rows_is_refused_before_anything_is_computed():
    with pytest.raises(ValueError, match="none of the 1 ids of `keep:` is in the pool"):
        fallen(keep=["unknown"])


def test_a_list_is_an_id_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\n\n two  # why\r\n# nothing\n", "utf-8")
    (tmp_path / "b.txt").write_text("two\nthree", "utf-8")
    assert ids_in([tmp_path / "a.txt", tmp_path / "b.txt"]) == {"one", "two", "three"}


def test_a_takedown_list_names_ids_and_sources_and_may_wait_empty(tmp_path):
    path = tmp_path / "takedown.txt"
    path.write_text("one # asked\nsource: chats.jsonl#2  # withdrawn\n  source:forum\n# none\n")
    assert taken_down([path]) == ({"one"}, {"chats.jsonl#2", "forum"})
    assert ids_in([path]) == {"one", "source: chats.jsonl", "source:forum"}, "ids alone"
    path.write_text("# nobody yet\n")
    assert taken_down([path]) == (frozenset(), frozenset())


def test_what_says_the_same_as_a_row_that_was_published_once_is_taken_down():
    lists = Listed(takedown=frozenset(IDS[:1]))
    later = ROWS.tail(1)
    assert listed(lambda: [later], lists).height == 0
    assert listed(lambda: [later], lists, [ROWS.head(1)])["reason"].to_list() == ["takedown"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"\n# none\n", "names no id"), (b"\xff\xfe\x00", "is no text")],
)
def test_a_list_that_says_nothing_is_refused(tmp_path, content, said):
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        ids_in([path])


def test_lists_stand_in_the_key_and_only_where_they_are():
    assert not Listed()
    assert Listed(keep=frozenset())
    assert Listed(drop=frozenset(["a"])).facts != Listed(takedown=frozenset(["a"])).facts
