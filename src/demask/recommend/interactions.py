"""Who took what and when, in order, with the text of every item; the last two of every user are held out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple

from demask.errors import RecommendError
from demask.recommend.tables import pick, rows

USER: Final = ("user", "user_id", "reviewerID")
ITEM: Final = ("item", "item_id", "parent_asin", "asin")
TIME: Final = ("time", "timestamp", "unixReviewTime")
TEXT: Final = ("text",)
_PARTS: Final = (("title",), ("brand", "store"), ("categories", "category"), ("features", "feature"), ("description",))
DUPLICATES: Final = ("refuse", "drop")
WITHOUT_TEXT: Final = ("refuse", "drop")


class Event(NamedTuple):
    """One interaction."""

    user: str
    item: str
    time: float


@dataclass(frozen=True)
class Cases:
    """What is asked of a ranker, and what was taken.

    Parameters:
        users: numbers of users.
        histories: what each had taken before, item numbers, oldest first.
        targets: what each took next.
    """

    users: tuple[int, ...]
    histories: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.users)

    def first(self, count: int) -> "Cases":
        """Return the cases of the first users."""
        return Cases(self.users[:count], self.histories[:count], self.targets[:count])


@dataclass(frozen=True)
class Interactions:
    """Users, items and what each user took, in the order of time.

    A user's last item is the test, the one before it the validation, all before them are for training; users with fewer
    than three interactions are for training only.

    Parameters:
        users: names.
        items: names, of the whole catalogue.
        texts: of every item.
        sequences: item numbers per user, oldest first.
        dropped: what was left out on request, by reason.

    Example:
        >>> log = Interactions(("ann",), ("a", "b", "c"), ("x", "y", "z"), ((0, 1, 2),))
        >>> log.training, log.cases("test").histories, log.cases("validation").targets
        (((0,),), ((0, 1),), (1,))
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    texts: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        events: Iterable[Event],
        texts: Mapping[str, str],
        *,
        core: int = 1,
        duplicates: str = "refuse",
        without_text: str = "refuse",
        cold: bool = False,
    ) -> "Interactions":
        """Return what the events say, users and items in the order of their names.

        Parameters:
            events: in any order; those of one user at one time stay in the order given.
            texts: by item.
            core: users and items with fewer interactions are left out, again and again until none has.
            duplicates: what happens to an event that has the user, item and time of another: "refuse" or "drop".
            without_text: what happens to an item without text, and to its interactions: "refuse" or "drop".
            cold: keep items that nobody took.

        Raises:
            RecommendError: duplicates or items without text, unless they are to be dropped; nothing left.
        """
        for name, value, allowed in (
            ("duplicates", duplicates, DUPLICATES),
            ("without_text", without_text, WITHOUT_TEXT),
        ):
            if value not in allowed:
                raise RecommendError(f"{name} {value!r}; expected one of {', '.join(allowed)}")
        if core < 1:
            raise RecommendError(f"core = {core}; expected an integer >= 1")
        known = {item: text for item, text in texts.items() if text.strip()}
        dropped: dict[str, int] = {}
        given = list(events)
        events = list(dict.fromkeys(given))
        if repeated := len(given) - len(events):
            if duplicates == "refuse":
                first = next(event for event, count in Counter(given).items() if count > 1)
                raise RecommendError(
                    f"{repeated} interactions have the user, item and time of another, such as {first.user} and "
                    f"{first.item} at {first.time:g}; remove them, or keep one each: duplicates='drop' (--duplicates drop)"
                )
            dropped["duplicates"] = repeated
        if bare := [event for event in events if event.item not in known]:
            names = sorted({event.item for event in bare})
            if without_text == "refuse":
                raise RecommendError(
                    f"{len(names)} items have no text, such as {', '.join(names[:3])}; give them one, or leave them out "
                    "with their interactions: without_text='drop' (--without-text drop)"
                )
            dropped["items without text"] = len(names)
            dropped["interactions of items without text"] = len(bare)
            events = [event for event in events if event.item in known]
        kept = _core(events, core)
        if len(kept) < len(events):
            dropped[f"interactions outside the {core}-core"] = len(events) - len(kept)
        if not kept:
            raise RecommendError(f"no interactions are left of {len(given)} (dropped: {dropped or 'none'}); lower core")
        users = tuple(sorted({event.user for event in kept}))
        items = tuple(sorted(set(known) if cold else {event.item for event in kept}))
        number = {item: index for index, item in enumerate(items)}
        taken: dict[str, list[Event]] = {user: [] for user in users}
        for event in kept:
            taken[event.user].append(event)
        sequences = tuple(
            tuple(number[event.item] for event in sorted(taken[user], key=lambda event: event.time)) for user in users
        )
        return cls(users, items, tuple(known[item] for item in items), sequences, dropped)

    @property
    def training(self) -> tuple[tuple[int, ...], ...]:
        """What may be learned from, per user."""
        return tuple(sequence[:-2] if len(sequence) >= 3 else sequence for sequence in self.sequences)

    @property
    def counts(self) -> list[int]:
        """How often each item was taken in the training part."""
        count = Counter(item for sequence in self.training for item in sequence)
        return [count[item] for item in range(len(self.items))]

    def cases(self, part: str) -> Cases:
        """Return the "validation" or "test" cases, of users with at least three interactions.

        Raises:
            RecommendError: another part, or no user has three interactions.
        """
        if part not in ("validation", "test"):
            raise RecommendError(f"part {part!r}; expected validation or test")
        cut = -2 if part == "validation" else -1
        users = tuple(user for user, sequence in enumerate(self.sequences) if len(sequence) >= 3)
        if not users:
            raise RecommendError("no user has three interactions, so nothing can be held out; give longer logs")
        return Cases(
            users,
            tuple(self.sequences[user][:cut] for user in users),
            tuple(self.sequences[user][cut] for user in users),
        )


def read_events(
    path: str | Path, *, user: str | None = None, item: str | None = None, time: str | None = None
) -> list[Event]:
    """Read interactions from a .csv, .jsonl, .json or .parquet file.

    Columns: user, item and time; or those of the public Amazon reviews (reviewerID, asin, unixReviewTime; since 2023
    user_id, parent_asin, timestamp). Times are numbers or ISO dates.

    Parameters:
        path: the file.
        user, item, time: names of the columns, where they are others.

    Raises:
        RecommendError: a missing value or a time that is none, with its place.
    """
    columns = (("user", user, USER), ("item", item, ITEM), ("time", time, TIME))
    out = []
    for place, row in rows(path):
        values = []
        for name, asked, usual in columns:
            value = pick(row, usual if asked is None else (asked,))
            if value is None:
                raise RecommendError(
                    f"{place}: no {name}; expected a column {asked or ' or '.join(usual)}, found {', '.join(row)}; "
                    f"name it: {name}='..' (--{name} COLUMN)"
                )
            values.append(value)
        out.append(Event(str(values[0]), str(values[1]), _moment(values[2], place)))
    return out


def read_texts(path: str | Path, *, item: str | None = None, text: str | None = None) -> dict[str, str]:
    """Read the text of items: a column text, or title, brand, categories, features and description joined.

    Items without any of them get an empty text, which `Interactions.of` decides about.

    Raises:
        RecommendError: a row without an item, or an item that is given two texts.
    """
    out: dict[str, str] = {}
    for place, row in rows(path):
        name = pick(row, ITEM if item is None else (item,))
        if name is None:
            raise RecommendError(
                f"{place}: no item; expected a column {item or ' or '.join(ITEM)}, found {', '.join(map(str, row))}"
            )
        value = pick(row, TEXT if text is None else (text,))
        words = _flat(value) if value is not None or text else " ".join(_flat(pick(row, part)) for part in _PARTS)
        words = " ".join(words.split())
        if out.setdefault(str(name), words) != words:
            raise RecommendError(f"{place}: item {name} has two texts; give one row per item")
    return out


def _core(events: Sequence[Event], core: int) -> list[Event]:
    kept = list(events)
    while True:
        users = Counter(event.user for event in kept)
        items = Counter(event.item for event in kept)
        left = [event for event in kept if users[event.user] >= core and items[event.item] >= core]
        if len(left) == len(kept):
            return kept
        kept = left


def _flat(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(map(_flat, value.values()))
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(_flat, value))
    return str(value)


def _moment(value: Any, place: str) -> float:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        number = float(value)
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise RecommendError(f"{place}: {value!r} is no time; expected a number or an ISO date") from None
        return _moment(moment, place)
    if not isfinite(number):
        raise RecommendError(f"{place}: {value!r} is no time; expected a finite number")
    return number
