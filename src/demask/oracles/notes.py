"""Short English notes whose words depend on each other over long distances, and whose exact probability is known."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from typing import Final

from demask.curve import Estimate
from demask.errors import OracleError
from demask.oracles.grammar import Grammar
from demask.oracles.parts import Case, Choice, Pick, Recall, optional


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_SHE: Final = _split("anna clara emma ida julia laura maria nora rosa sara vera zoe")
_HE: Final = _split("adam ben carl david felix hugo jack leo max oscar paul tom")
_NAMES: Final = _SHE + _HE
_SUBJECT: Final = dict.fromkeys(_SHE, "she") | dict.fromkeys(_HE, "he")
_POSSESSIVE: Final = dict.fromkeys(_SHE, "her") | dict.fromkeys(_HE, "his")
_GENDERED: Final = ("he", "she", "his", "her")
_DAYS: Final = _split("monday tuesday wednesday thursday friday saturday sunday")
_NUMBERS: Final = _split("two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen")
_VALUE: Final = {word: number for number, word in enumerate(_NUMBERS, 2)}
_FEW: Final = _NUMBERS[:4]
_SUMS: Final = {
    addends: _NUMBERS[sum(_VALUE[word] for word in addends) - 2]
    for count in (2, 3)
    for addends in product(_FEW, repeat=count)
}
_ITEMS: Final = _split(
    "apples pears plums cherries lemons oranges peaches melons carrots onions potatoes tomatoes eggs loaves cakes pies "
    "cups plates spoons forks bowls chairs blankets towels candles lamps ropes tents maps games songbooks balloons"
)
_ITEM: Final = frozenset(_ITEMS)
_PLACES: Final = _split(
    "station river lake church bridge market library harbour mill museum school fountain tower gate forest castle theatre "
    "bakery barn orchard"
)
_OCCASIONS: Final = _split(
    "picnic party dinner concert wedding parade fair dance feast lunch breakfast play race festival walk reunion"
)
_KINDS: Final = _split("big small quiet merry spring summer autumn winter village family garden annual")
_TASKS: Final = _split("shop bake cook clean paint rehearse decorate practise rest sing mend sew")
_THINGS: Final = _split("coat hat scarf ticket umbrella camera violin guitar basket bicycle drum telescope")
_SIGN_OFF: Final = {"dear": "sincerely", "dearest": "love", "hello": "cheers", "hi": "bye", "greetings": "regards"}
_SAYING: Final = _split("said wrote sang whispered")
_MARKS: Final = ('"', "'")
_CLOSING: Final = {'"': '"', "'": "'", "(": ")", "[": "]"}


def _any(words: str) -> Pick:
    return Pick(None, _split(words))


def _count(number: int, *before: str) -> tuple[Pick, Pick]:
    """A number of items: not those listed before."""
    return Pick(f"number{number}", _FEW), Pick(f"item{number}", _ITEMS, other=before)


_GREETING: Final = (Pick("greeting", tuple(_SIGN_OFF)), Pick("friend", _NAMES), ",")
_INTRODUCTION: Final = (_any("it this here"), "is", Pick("sender", _NAMES, other=("friend",)), ".")
_PLEASANTRY: Final = Choice(
    (
        ("i hope you are", _any("well happy rested better warm safe"), "."),
        ("thank you for your", _any("letter card visit call present message"), "."),
        ("how is the new", _any("kitten puppy house job boat teacher"), "?"),
    )
)
_OCCASION: Final = (Pick("kind", _KINDS), Pick("occasion", _OCCASIONS))
_WHERE: Final = (_any("by near behind beside"), "the", Pick("place", _PLACES))
_WHEN: Final = (_any("at before after"), _any("noon dawn dusk midnight sunrise sunset lunchtime teatime"))
_BEGINS: Final = _any("begins starts opens")
_PLAN: Final = Choice(
    (
        ("the", _OCCASION, _BEGINS, _WHEN, _WHERE, "."),
        ("our", _OCCASION, _WHERE, _BEGINS, _WHEN, "."),
        (_WHEN, "the", _OCCASION, _BEGINS, _WHERE, "."),
    )
)
_LIST: Final = (
    _any("please kindly"),
    _any("bring pack fetch buy send carry"),
    _count(1),
    Choice(
        (
            ("and", _count(2, "item1"), ",", Recall(("number1", "number2"), _SUMS)),
            (
                (",", _count(2, "item1"), "and", _count(3, "item1", "item2"), ","),
                Recall(("number1", "number2", "number3"), _SUMS),
            ),
        ),
        name="items",
    ),
    ("in", _any("all total"), "."),
)
_HE_OR_SHE: Final = Recall("person", _SUBJECT)
_PERSON: Final = (
    Pick("person", _NAMES, other=("friend", "sender")),
    Pick(None, _SAYING),
    Pick("quote", _MARKS),
    Choice(
        (
            ("i will be", _any("late early hungry tired ready busy")),
            ("keep me a", _any("seat slice place bed song chair")),
            ("do not be", _any("sad cross afraid shy silly worried")),
        )
    ),
    Recall("quote", _CLOSING),
    (
        ", so",
        _HE_OR_SHE,
        _any("needs wants brings leaves"),
        Recall("person", _POSSESSIVE),
        _any("old new red blue"),
        Pick(None, _THINGS),
        ".",
    ),
    optional(
        (
            Pick("bracket", ("(", "[")),
            _HE_OR_SHE,
            "is",
            _any("kind clever funny brave young shy"),
            Recall("bracket", _CLOSING),
        ),
        0.4,
    ),
)
_SCHEDULE: Final = (
    (Pick("task1", _TASKS), "on", Pick("day1", _DAYS[:-2]), ","),
    (Pick("task2", _TASKS, other=("task1",)), "on", Pick("day2", _DAYS[:-1], after="day1")),
    ("and", _any("meet dine talk eat"), "on", Pick("day3", _DAYS, after="day2"), "."),
)
_REMINDER: Final = (
    Choice(("do not forget", "remember to take", "check we have")),
    "the {item1}",
    Case("items", ("and {item2}", ", {item2} and {item3}")),
    ".",
)
_MEETING: Final = Choice(
    (
        (_any("meet find join"), "me by the {place} ."),
        ("we will", _any("enjoy love remember"), "the {occasion} ."),
    )
)
_CLOSE: Final = (
    "until",
    Case("schedule", ("{day3}", "then")),
    ", {friend} .",
    Recall("greeting", _SIGN_OFF),
    ", {sender}",
)
_NOTE: Final = (
    (_GREETING, _INTRODUCTION, optional(_PLEASANTRY, 0.4), _PLAN, _LIST, optional(_PERSON, 0.5)),
    (optional(("we", _SCHEDULE), 0.5, name="schedule"), _REMINDER, optional(_MEETING, 0.5), _CLOSE),
)


@dataclass(frozen=True)
class Share:
    """How many of how many texts satisfy a constraint.

    Example:
        >>> share = Share(19, 20)
        >>> share.value, share.interval(0.95)
        (0.95, (0.751..., 0.998...))
    """

    held: int
    count: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.held / self.count

    def interval(self, coverage: float = 0.95) -> tuple[float, float]:
        """Return the exact interval: it covers the true share with at least the probability `coverage`.

        Reference: Clopper and Pearson, 1934, Biometrika 26.
        """
        from scipy.special import betaincinv  # scipy is imported where it is used

        if not 0 < coverage < 1:
            raise OracleError(f"a coverage of {coverage}; expected a probability, such as 0.95")
        held, missed, tail = self.held, self.count - self.held, (1 - coverage) / 2
        low = float(betaincinv(held, missed + 1, tail)) if held else 0.0
        high = float(betaincinv(held + 1, missed, 1 - tail)) if missed else 1.0
        return low, high


class Notes:
    """Short English notes, 45 to 96 words each, full of constraints that a program can check.

    Every word and every punctuation mark is a token; tokens are joined by single spaces. The law is that of a `Grammar`,
    so log p of a note and the entropy are exact. A text is a note if and only if it satisfies all constraints:

        form      words of the right kind in the right places, if nothing else is remembered
        names     the friend, the sender and the person quoted are three different people
        friend    the name in the greeting is the name in the farewell
        sender    the name introduced is the name signed
        pronouns  he, she, his, her agree with the last name before them
        sum       the numbers of the listed items add up to the number "in all" or "in total"
        items     the items listed are recalled at the end: the same ones, in the same order
        repeats   no item is listed twice, and no task
        days      the days of the schedule are in the order of the week
        until     the farewell names the last day of the schedule, or "then" where there is no schedule
        quotes    what a quotation mark opens, the same mark closes
        brackets  every bracket is closed by its own kind
        place     the place to meet is the place of the occasion
        occasion  the occasion to enjoy is the one announced
        sign_off  the farewell fits the greeting: dear, sincerely; dearest, love; hello, cheers; hi, bye; greetings, regards

    A constraint holds where no two words contradict it; what is missing altogether is left to `form`, except in friend,
    sender, sum, items, until and sign_off, whose words every note has.

    Attributes:
        words: the vocabulary, sorted; every word occurs in some note.
        constraints: the names above.

    Example:
        >>> notes = Notes()
        >>> [note] = notes.sample(1, key=1)
        >>> round(notes.logp(note), 3), all(notes.check(note).values())
        (-74.643, True)
        >>> [name for name, holds in notes.check(note.replace("eleven in total", "twelve in total")).items() if not holds]
        ['sum']
    """

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, sorted."""
        return _grammar().words

    @property
    def constraints(self) -> tuple[str, ...]:
        """The names of the constraints, in the order of `check`."""
        return tuple(_CONSTRAINTS)

    @property
    def entropy(self) -> Estimate:
        """H in nats per note, exact."""
        return Estimate(_grammar().entropy)

    @property
    def length(self) -> Estimate:
        """The mean number of words of a note, exact."""
        return Estimate(_grammar().length)

    def __repr__(self) -> str:
        return "Notes()"

    def sample(self, count: int, *, key: int) -> list[str]:
        """Return `count` independent notes.

        Equal keys give equal notes on every machine, and a shorter list is the beginning of a longer one.

        Raises:
            OracleError: a negative count or key.
        """
        return _grammar().sample(count, key=key)

    def logp(self, text: str) -> float:
        """Return log p(text) in nats; -inf where it is not a note.

        Raises:
            OracleError: a word that is not in the vocabulary, by name.
        """
        return _grammar().logp(text)

    def check(self, text: str) -> dict[str, bool]:
        """Return whether each constraint holds, for any words of the vocabulary in any order.

        Each constraint looks for its words by itself, and `form` is a regular expression made from the grammar: nothing of
        the walk behind `logp` is used.

        Raises:
            OracleError: a word that is not in the vocabulary, by name.
        """
        words = _grammar().split(text)
        return {name: holds(words) for name, holds in _CONSTRAINTS.items()}

    def questions(self, text: str) -> dict[str, list[tuple[int, ...]]]:
        """Return what a note can be asked: by constraint, places of words that, masked together, it decides or bounds.

        Of a name, an item or a task that must not be another one, all places where it stands are masked, so that nothing
        gives it away; of a word that is recalled, one place.

        Raises:
            OracleError: a word that is not in the vocabulary, by name.

        Example:
            >>> [note] = Notes().sample(1, key=1)
            >>> words, asked = note.split(), Notes().questions(note)
            >>> [[words[place] for place in places] for places in asked["repeats"]]
            [['melons', 'melons'], ['apples', 'apples'], ['spoons', 'spoons'], ['mend'], ['practise']]
        """
        words = _grammar().split(text)
        return {name: found for name, ask in _QUESTIONS.items() if (found := ask(words))}

    def law(self, text: str, places: Sequence[int]) -> dict[str, float]:
        """Return the law of the one word that stands at all of `places`, given all other words of a note: an answer.

        Raises:
            OracleError: a word that is not in the vocabulary, by name; no place, or one that the note does not have.

        Example:
            >>> [note] = Notes().sample(1, key=1)
            >>> law = Notes().law(note, Notes().questions(note)["names"][0])
            >>> len(law), round(sum(law.values()), 12)
            (22, 1.0)
        """
        return _grammar().law(text, places)

    def satisfied(self, texts: Iterable[str]) -> dict[str, Share]:
        """Return the share of texts that satisfy each constraint, and "all" of them.

        Raises:
            OracleError: no text, or a word that is not in the vocabulary.

        Example:
            >>> notes = Notes()
            >>> notes.satisfied(notes.sample(20, key=0))["all"]
            Share(held=20, count=20)
        """
        held, count = dict.fromkeys((*_CONSTRAINTS, "all"), 0), 0
        for text in texts:
            verdict = self.check(text)
            verdict["all"] = all(verdict.values())
            for name, holds in verdict.items():
                held[name] += holds
            count += 1
        if not count:
            raise OracleError("no text; expected one or more, such as Notes().sample(100, key=0)")
        return {name: Share(each, count) for name, each in held.items()}


@cache
def _grammar() -> Grammar:
    return Grammar(_NOTE)


def _form(words: Sequence[str]) -> bool:
    return _grammar().form.fullmatch("".join(word + " " for word in words)) is not None


def _names(words: Sequence[str]) -> bool:
    people = [*words[1:2], *words[5:6], *(name for name, verb in pairwise(words) if verb in _SAYING)]
    names = [name for name in people if name in _SUBJECT]
    return len(set(names)) == len(names)


def _friend(words: Sequence[str]) -> bool:
    farewell = _after(words, "until")
    return len(farewell) > 2 and words[1] == farewell[2]


def _sender(words: Sequence[str]) -> bool:
    return len(words) > 6 and words[5] == words[-1]


def _pronouns(words: Sequence[str]) -> bool:
    name = None
    for word in words:
        if word in _SUBJECT:
            name = word
        elif word in _GENDERED and (name is None or word not in (_SUBJECT[name], _POSSESSIVE[name])):
            return False
    return True


def _sum(words: Sequence[str]) -> bool:
    *listed, total = [_VALUE[word] for word in words if word in _VALUE] or [0]
    return total == sum(listed) > 0


def _items(words: Sequence[str]) -> bool:
    items = [word for word in words if word in _ITEM]
    middle = len(items) // 2
    return len(items) > 0 and items == items[:middle] * 2


def _repeats(words: Sequence[str]) -> bool:
    items = [word for word in words if word in _ITEM]
    listed, tasks = items[: (len(items) + 1) // 2], [word for word in words if word in _TASKS]
    return len(set(listed)) == len(listed) and len(set(tasks)) == len(tasks)


def _days(words: Sequence[str]) -> bool:
    days = _scheduled(words)
    return all(_DAYS.index(a) < _DAYS.index(b) for a, b in pairwise(days))


def _until(words: Sequence[str]) -> bool:
    return _after(words, "until")[:1] == (_scheduled(words)[-1:] or ["then"])


def _scheduled(words: Sequence[str]) -> list[str]:
    return [word for before, word in pairwise(["", *words]) if word in _DAYS and before != "until"]


def _after(words: Sequence[str], anchor: str) -> list[str]:
    return list(words[words.index(anchor) + 1 :]) if anchor in words else []


def _quotes(words: Sequence[str]) -> bool:
    marks = [word for word in words if word in _MARKS]
    return marks[::2] == marks[1::2]


def _brackets(words: Sequence[str]) -> bool:
    awaited: list[str] = []
    for word in words:
        if word in ("(", "["):
            awaited.append(_CLOSING[word])
        elif word in (")", "]") and (not awaited or awaited.pop() != word):
            return False
    return not awaited


def _same(words: Sequence[str], kind: Iterable[str]) -> bool:
    return len(set(words) & set(kind)) <= 1


def _sign_off(words: Sequence[str]) -> bool:
    return len(words) > 2 and _SIGN_OFF.get(words[0]) == words[-3]


def _standing(words: Sequence[str], kind: Iterable[str]) -> list[int]:
    known = frozenset(kind)
    return [place for place, word in enumerate(words) if word in known]


def _each(words: Sequence[str], kind: Iterable[str]) -> list[tuple[int, ...]]:
    """All places of each word of a kind."""
    places = _standing(words, kind)
    return [tuple(p for p in places if words[p] == word) for word in dict.fromkeys(words[p] for p in places)]


def _twice(words: Sequence[str], kind: Iterable[str]) -> list[tuple[int, ...]]:
    """One place at a time of a word that stands twice."""
    return [(place,) for places in _each(words, kind) if len(places) > 1 for place in places]


_QUESTIONS: Final[Mapping[str, Callable[[Sequence[str]], list[tuple[int, ...]]]]] = {
    "names": lambda words: _each(words, _NAMES),
    "friend": lambda words: _twice(words, words[1:2]),
    "sender": lambda words: _twice(words, words[5:6]),
    "sum": lambda words: [(place,) for place in _standing(words, _NUMBERS)],
    "items": lambda words: _twice(words, _ITEMS),
    "repeats": lambda words: _each(words, (*_ITEMS, *_TASKS)),
    "place": lambda words: _twice(words, _PLACES),
    "occasion": lambda words: _twice(words, _OCCASIONS),
    "sign_off": lambda words: [(0,), (len(words) - 3,)],
}
_CONSTRAINTS: Final[Mapping[str, Callable[[Sequence[str]], bool]]] = {
    "form": _form,
    "names": _names,
    "friend": _friend,
    "sender": _sender,
    "pronouns": _pronouns,
    "sum": _sum,
    "items": _items,
    "repeats": _repeats,
    "days": _days,
    "until": _until,
    "quotes": _quotes,
    "brackets": _brackets,
    "place": lambda words: _same(words, _PLACES),
    "occasion": lambda words: _same(words, _OCCASIONS),
    "sign_off": _sign_off,
}
