"""Logs in every format, the public Amazon lines among them, and everything that may be wrong with them."""

import gzip
import json

import pytest

from demask.errors import RecommendError
from demask.recommend import Event, Interactions, read_events, read_texts
from tests.recommend.worlds import EXTRA

ROWS = [
    {"user": "ann", "item": "tea", "time": 3},
    {"user": "bob", "item": "cup", "time": 2.5},
    {"user": "ann", "item": "cup", "time": 1},
]
EVENTS = [Event("ann", "tea", 3.0), Event("bob", "cup", 2.5), Event("ann", "cup", 1.0)]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_format_says_the_same(tmp_path):
    assert read_events(lines(tmp_path / "log.jsonl", ROWS)) == EVENTS
    (tmp_path / "log.csv").write_text("time,item,user\n3,tea,ann\n2.5,cup,bob\n1,cup,ann\n")
    assert read_events(tmp_path / "log.csv") == EVENTS
    with gzip.open(tmp_path / "log.csv.gz", "wt") as file:
        file.write((tmp_path / "log.csv").read_text())
    assert read_events(tmp_path / "log.csv.gz") == EVENTS
    other = [{"who": r["user"], "what": r["item"], "when": r["time"]} for r in ROWS]
    assert read_events(lines(tmp_path / "o.json", other), user="who", item="what", time="when") == EVENTS


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason=EXTRA)
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "log.parquet")
    assert read_events(tmp_path / "log.parquet") == EVENTS
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RecommendError, match="no whole Parquet file"):
        read_events(tmp_path / "broken.parquet")


def test_amazon_lines(tmp_path):
    """Reviews and metadata as published in 2014 (metadata as Python literals) and in 2023."""
    old = {
        "reviewerID": "A1", "asin": "0001", "reviewerName": "x", "helpful": [2, 3], "overall": 5.0, "reviewText": "good",
        "unixReviewTime": 1252800000, "reviewTime": "09 13, 2009",
    }  # fmt: skip
    new = {"user_id": "A1", "asin": "0001-blue", "parent_asin": "0001", "rating": 4.0, "timestamp": 1252800000}
    for name, row in (("old", old), ("new", new)):
        assert read_events(lines(tmp_path / f"{name}.json", [row])) == [Event("A1", "0001", 1252800000.0)]
    meta = tmp_path / "meta.json"
    meta.write_text(
        "{'asin': '0001', 'title': \"Runner's ball\", 'brand': 'Acme', 'price': 3.1, 'categories': [['Sports', 'Balls']]}\n"
        "{'asin': '0002', 'imUrl': 'http://x'}\n"
    )
    assert read_texts(meta) == {"0001": "Runner's ball Acme Sports Balls", "0002": ""}
    row = {
        "parent_asin": "7",
        "title": "Mat",
        "store": "Acme",
        "features": ["soft", "blue"],
        "description": [],
        "categories": ["Yoga"],
    }
    assert read_texts(lines(tmp_path / "meta2023.jsonl", [row])) == {"7": "Mat Acme Yoga soft blue"}


def test_iso_dates(tmp_path):
    dated = [{"user": "a", "item": "b", "time": t} for t in ("1970-01-01T00:00:10+00:00", "1970-01-02", "5")]
    assert [event.time for event in read_events(lines(tmp_path / "l.jsonl", dated))] == [10.0, 86400.0, 5.0]


def test_order_of_time_and_leave_one_out():
    log = Interactions.of(EVENTS, {"tea": "green tea", "cup": "a cup", "pot": "cold pot"})
    assert (log.users, log.items, log.sequences) == (("ann", "bob"), ("cup", "tea"), ((0, 1), (0,)))
    assert log.training == log.sequences
    with pytest.raises(RecommendError, match="no user has three interactions"):
        log.cases("test")
    assert Interactions.of(EVENTS, {"tea": "t", "cup": "c", "pot": "p"}, cold=True).items == ("cup", "pot", "tea")
    long = [Event("ann", name, time) for time, name in enumerate("abcd")] + [Event("bob", "a", 0.0)]
    log = Interactions.of(long, dict.fromkeys("abcd", "text"))
    assert log.training == ((0, 1), (0,))
    assert log.counts == [2, 1, 0, 0]
    validation, test = log.cases("validation"), log.cases("test")
    assert (validation.users, validation.histories, validation.targets) == ((0,), ((0, 1),), (2,))
    assert (test.histories, test.targets) == (((0, 1, 2),), (3,))


def test_equal_times_keep_the_order_given():
    events = [Event("ann", name, 7.0) for name in "cab"]
    assert Interactions.of(events, dict.fromkeys("abc", "text")).sequences == ((2, 0, 1),)


def test_duplicates():
    texts = {"tea": "t", "cup": "c"}
    with pytest.raises(RecommendError, match=r"1 interactions .* ann and tea at 3; .*duplicates='drop'"):
        Interactions.of([*EVENTS, EVENTS[0]], texts)
    log = Interactions.of([*EVENTS, EVENTS[0]], texts, duplicates="drop")
    assert log.sequences == ((0, 1), (0,))
    assert log.dropped == {"duplicates": 1}
    again = Interactions.of([*EVENTS, Event("ann", "tea", 9.0)], texts)  # at another time: taken twice
    assert again.sequences[0] == (0, 1, 1)
    with pytest.raises(RecommendError, match="expected one of refuse, drop"):
        Interactions.of(EVENTS, texts, duplicates="ignore")


def test_items_without_text():
    with pytest.raises(RecommendError, match=r"1 items have no text, such as cup; .*--without-text drop"):
        Interactions.of(EVENTS, {"tea": "t", "cup": " "})
    log = Interactions.of(EVENTS, {"tea": "t"}, without_text="drop")
    assert (log.users, log.items) == (("ann",), ("tea",))
    assert log.dropped == {"items without text": 1, "interactions of items without text": 2}
    with pytest.raises(RecommendError, match="no interactions are left of 3"):
        Interactions.of(EVENTS, {}, without_text="drop")


def test_core():
    """Leaving out item c leaves user y with one interaction, and so on until nothing changes."""
    events = [Event(user, item, 0.0) for user, item in ("xa", "xb", "ya", "yc", "za", "zb")]
    log = Interactions.of(events, dict.fromkeys("abc", "text"), core=2)
    assert (log.users, log.items) == (("x", "z"), ("a", "b"))
    assert log.dropped == {"interactions outside the 2-core": 2}
    with pytest.raises(RecommendError, match="lower core"):
        Interactions.of(events, dict.fromkeys("abc", "text"), core=4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"user": "x", "item": "y"}\n',
            r"a.jsonl:1: no time; expected a column time or .* found user, item",
        ),
        ("a.csv", "user,item,time\nx,,3\n", "a.csv:2: no item"),
        ("a.jsonl", '{"user": "x", "item": "y", "time": "soon"}\n', "a.jsonl:1: 'soon' is no time"),
        ("a.jsonl", '{"user": "x", "item": "y", "time": "inf"}\n', "expected a finite number"),
        ("a.jsonl", '{"user": "x"\n', "a.jsonl:1: not whole JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: a list; expected one object per line"),
        ("a.csv", "user,item,time\n", "holds no rows"),
        ("a.txt", "x", "expected a file that ends in"),
        ("a.json.gz", "no gzip", "expected a whole file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RecommendError, match=message):
        read_events(tmp_path / name)


def test_two_texts_for_an_item(tmp_path):
    rows = [{"item": "a", "text": "one"}, {"item": "a", "text": "two"}]
    with pytest.raises(RecommendError, match="item a has two texts"):
        read_texts(lines(tmp_path / "i.jsonl", rows))
    with pytest.raises(RecommendError, match="no item; expected a column"):
        read_texts(lines(tmp_path / "i.jsonl", [{"text": "one"}]))


def test_missing_file(tmp_path):
    for name in ("no.jsonl", "no.csv.gz"):
        with pytest.raises(FileNotFoundError):
            read_events(tmp_path / name)
