import math
import statistics
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from demask.errors import OracleError
from demask.oracles import Notes, notes
from demask.oracles.grammar import Grammar
from demask.oracles.notes import Share
from demask.oracles.parts import Case, Choice, Pick, Recall, optional

NOTES = Notes()
SAMPLE = NOTES.sample(4000, key=11)

NAMES = ("ann", "bob", "cat")
DAYS = ("mon", "tue", "wed", "thu")
SMALL = (
    (Choice(("dear", "hi")), Pick("friend", NAMES), Pick("sender", NAMES, other=("friend",))),
    optional((Pick("first", DAYS[:-1]), Pick("last", DAYS, after="first")), 0.3, name="when"),
    Choice(("and {friend}", (",", Pick("third", NAMES, other=("friend", "sender")))), (3, 1)),
    Recall("friend", {"ann": "she", "bob": "he", "cat": "she"}),
    Case("when", ("{last}", ("then", Choice(("yes", "no", "well"), (1, 2, 5))))),
)


def by_hand():
    """The texts of SMALL and their probabilities, without the walk."""
    texts = {}
    for friend in NAMES:
        for sender in set(NAMES) - {friend}:
            (third,) = set(NAMES) - {friend, sender}
            middles = {f"and {friend}": 0.75, f", {third}": 0.25}
            ends = {("", f"then {word}"): 0.7 * w / 8 for word, w in [("yes", 1), ("no", 2), ("well", 5)]}
            for i, first in enumerate(DAYS[:-1]):
                for last in DAYS[i + 1 :]:
                    ends[f"{first} {last} ", last] = 0.3 / 3 / (3 - i)
            for greeting in ("dear", "hi"):
                for middle, p in middles.items():
                    for (when, end), q in ends.items():
                        pronoun = "he" if friend == "bob" else "she"
                        texts[f"{greeting} {friend} {sender} {when}{middle} {pronoun} {end}"] = p * q / 12
    return texts


def test_logp_against_enumeration():
    grammar, truth = Grammar(SMALL), by_hand()
    listed = grammar.enumerate()
    assert listed.keys() == truth.keys()
    assert len(truth) == 3 * 2 * 2 * 2 * (3 + 6)
    assert math.fsum(math.exp(grammar.logp(text)) for text in listed) == pytest.approx(1, abs=1e-12)
    for text, p in truth.items():
        assert listed[text] == pytest.approx(p, rel=1e-12)
        assert grammar.logp(text) == pytest.approx(math.log(p), abs=1e-12)


def test_the_law_of_a_word_given_the_others_against_enumeration():
    """One place at a time, and the friend's name wherever it stands."""
    grammar, truth = Grammar(SMALL), {tuple(text.split(" ")): p for text, p in by_hand().items()}
    for words in truth:
        groups = [[place] for place in range(len(words))] + [[p for p, word in enumerate(words) if word == words[1]]]
        for places in groups:
            beside = {}
            for other, p in truth.items():
                same = len(other) == len(words) and len({other[place] for place in places}) == 1
                if same and all(other[i] == words[i] for i in range(len(words)) if i not in places):
                    beside[other[places[0]]] = p
            whole = sum(beside.values())
            law = grammar.law(" ".join(words), places)
            assert law == pytest.approx({word: p / whole for word, p in beside.items()}, rel=1e-9)
    assert grammar.law("dear ann ann and ann she then yes", [1]) == {}
    assert grammar.law("dear then bob and ann she then no", [1]) == {"ann": 1.0}  # what stands there may be anything


@pytest.mark.parametrize("places", [[], [8], [-1], [1, 9]])
def test_places_that_a_text_does_not_have(places):
    with pytest.raises(OracleError, match=r"of 8 words; expected one or more of 0 \.\. 7"):
        Grammar(SMALL).law("dear ann bob and ann she then no", places)


def test_logp_outside_the_language():
    grammar, truth = Grammar(SMALL), by_hand()
    for text in truth:
        words = text.split()
        for place in range(len(words)):
            for word in grammar.words:
                other = " ".join([*words[:place], word, *words[place + 1 :]])
                assert math.isinf(grammar.logp(other)) == (other not in truth)
            assert grammar.logp(" ".join(words[:place])) == -math.inf
        assert grammar.logp(f"{text} yes") == -math.inf


def test_entropy_and_length_against_enumeration():
    grammar, truth = Grammar(SMALL), by_hand()
    assert grammar.entropy == pytest.approx(-math.fsum(p * math.log(p) for p in truth.values()), abs=1e-12)
    assert grammar.length == pytest.approx(math.fsum(p * len(text.split()) for text, p in truth.items()), abs=1e-12)
    sizes = {len(text.split()) for text in truth}
    assert grammar.bounds[0] <= min(sizes) <= max(sizes) <= grammar.bounds[1]


def test_entropy_where_a_name_is_bound_in_one_of_two_ways():
    """The choice decides which words `x` has, so what is left for `y` depends on it."""
    grammar = Grammar((Choice((("a", Pick("x", ("p", "q"))), ("b", Pick("x", ("q", "r", "s")))), (1, 2), "which"),
                       Case("which", (Pick("y", ("p", "q"), other=("x",)), Pick("y", ("p", "q"), other=("x",)))),
                       Pick("z", ("p", "q", "t"), other=("x", "y"))))  # fmt: skip
    truth = grammar.enumerate()
    assert math.fsum(truth.values()) == pytest.approx(1, abs=1e-12)
    assert grammar.entropy == pytest.approx(-math.fsum(p * math.log(p) for p in truth.values()), abs=1e-12)


def test_form_is_the_grammar_without_memory():
    grammar = Grammar(SMALL)
    assert all(grammar.form.fullmatch(text + " ") for text in by_hand())
    assert grammar.form.fullmatch("dear ann ann tue mon and bob he thu ")  # every constraint broken
    assert not grammar.form.fullmatch("dear ann ann tue and bob he thu ")
    assert not grammar.form.fullmatch("dear ann ann tue mon and bob he thu")


def test_sampling_frequencies():
    """Chi-square over all 216 texts of the small grammar, false alarm 1e-6."""
    from scipy.stats import chi2

    truth, count = by_hand(), 50_000
    seen = Counter(Grammar(SMALL).sample(count, key=5))
    assert seen.keys() <= truth.keys()
    statistic = sum((seen[text] - count * p) ** 2 / (count * p) for text, p in truth.items())
    assert statistic < chi2.isf(1e-6, len(truth) - 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Grammar(Choice(("a b", "a c"))), "parts 0 and 1 of a choice both begin with 'a'"),
        (lambda: Grammar((optional("a", 0.5), "a")), "parts 0 and 1 of a choice both begin with 'a'"),
        (lambda: Grammar((optional("a", 0.5), optional((), 0.5))), "both begin with 'the end'"),
        (lambda: Grammar("a {b}"), "'b' is never bound; bound are none"),
        (lambda: Grammar(("{b}", Pick("b", ("x",)))).sample(1, key=0), "'b' is recalled before it is bound"),
        (lambda: Grammar(Pick("c", ("x",), after="b")), "'b' is never bound"),
        (lambda: Grammar(Case("b", ("x",))), "a case of 1 parts; 'b' is no choice"),
        (lambda: Grammar(Choice(("a", "b"), (1, 0))), r"weights \(1, 0\) for 2 parts"),
        (lambda: Grammar(Choice(("a", "b"), (1,))), r"weights \(1,\) for 2 parts"),
        (lambda: Pick("a", ("x", "x")), "to pick 'a' from; expected one or more, all different"),
        (lambda: Grammar((Pick("a", ("x",)), Pick("b", ("x",), other=("a",)))).sample(1, key=0), "no word is left"),
        (lambda: Grammar(SMALL).enumerate(limit=10), "more than 10 texts"),
        (lambda: NOTES.sample(-1, key=0), "-1 samples with key 0"),
        (lambda: NOTES.sample(1, key=-1), "1 samples with key -1"),
        (lambda: NOTES.logp("dear zebra"), "'zebra', word 1 of the text"),
        (lambda: NOTES.check("dear  anna"), "'', word 1 of the text.*single spaces"),
        (lambda: NOTES.satisfied([]), "no text"),
        (lambda: Share(1, 2).interval(1.0), "a coverage of 1.0"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()


def test_lengths_and_vocabulary():
    lengths = [len(note.split(" ")) for note in SAMPLE]
    assert min(lengths) == 45
    assert max(lengths) == 96
    error = statistics.stdev(lengths) / len(lengths) ** 0.5
    assert statistics.fmean(lengths) == pytest.approx(NOTES.length, abs=4 * error)
    assert {word for note in SAMPLE for word in note.split(" ")} == set(NOTES.words)
    assert 200 <= len(NOTES.words) <= 350
    assert list(NOTES.words) == sorted(NOTES.words)


def test_equal_keys_give_equal_notes():
    assert NOTES.sample(20, key=11) == SAMPLE[:20] == Notes().sample(4000, key=11)[:20]
    assert NOTES.sample(20, key=12) != SAMPLE[:20]
    assert NOTES.sample(0, key=0) == []
    assert NOTES.sample(1, key=1)[0].startswith("dear max , here is laura . our winter race by the station opens")


def test_entropy_against_the_mean_of_logp():
    """Four standard errors: false alarm 6e-5."""
    costs = [-NOTES.logp(note) for note in SAMPLE]
    assert statistics.fmean(costs) == pytest.approx(NOTES.entropy, abs=4 * statistics.stdev(costs) / len(costs) ** 0.5)
    assert NOTES.entropy.exact
    assert 50 < NOTES.entropy < 100


def test_notes_satisfy_everything():
    shares = NOTES.satisfied(SAMPLE)
    assert list(shares) == [*NOTES.constraints, "all"]
    assert all(share == Share(len(SAMPLE), len(SAMPLE)) for share in shares.values())
    assert len(set(SAMPLE)) == len(SAMPLE)


def agrees(text):
    """A text is a note if and only if all constraints hold."""
    return (NOTES.logp(text) > -math.inf) == all(NOTES.check(text).values())


def successors():
    """For every word, the words that some note has after the same word: those that look right there."""
    after = {}
    for note in SAMPLE:
        for before, word in pairwise(["", *note.split(" ")]):
            after.setdefault(before, set()).add(word)
    return {before: sorted(words) for before, words in after.items()}


def test_every_single_replacement_is_caught():
    random, after, broken = Random(3), successors(), Counter()
    for note in SAMPLE[:50]:
        words = note.split(" ")
        for place, word in enumerate(words):
            alike = after[words[place - 1] if place else ""]
            others = {*random.sample(alike, min(4, len(alike))), random.choice(NOTES.words), words[place - 1]} - {word}
            for other in sorted(others):
                text = " ".join([*words[:place], other, *words[place + 1 :]])
                failed = [name for name, holds in NOTES.check(text).items() if not holds]
                assert (NOTES.logp(text) == -math.inf) == bool(failed), text
                broken.update(failed)
    assert broken.keys() == set(NOTES.constraints)  # every constraint has work to do


def test_consistent_and_double_replacements_are_judged_alike():
    """A word replaced everywhere, two replaced words, exchanged words, dropped words, two notes joined in the middle."""
    random, after, verdicts = Random(4), successors(), Counter()
    for note, second in pairwise(SAMPLE[:400]):
        words, others = note.split(" "), second.split(" ")
        i, j = sorted(random.sample(range(1, len(words)), 2))
        one, two = random.choice(after[words[i - 1]]), random.choice(after[words[j - 1]])
        cut = random.randrange(len(words))
        join = others.index(words[cut]) if words[cut] in others else cut
        for text in (
            [one if word == words[i] else word for word in words],
            [*words[:i], one, *words[i + 1 : j], two, *words[j + 1 :]],
            [*words[:i], words[j], *words[i + 1 : j], words[i], *words[j + 1 :]],
            words[:i] + words[j:],
            words[:cut] + others[join:],
            words[:cut],
        ):
            assert agrees(" ".join(text)), " ".join(text)
            verdicts[all(NOTES.check(" ".join(text)).values())] += 1
    assert min(verdicts[True], verdicts[False]) > 100


def test_any_words_can_be_checked():
    random = Random(5)
    for size in (0, 1, 2, 3, 6, 7, 30, 96, 300):
        for _ in range(50):
            text = " ".join(random.choices(NOTES.words, k=size))
            verdict = NOTES.check(text)
            assert list(verdict) == list(NOTES.constraints)
            assert all(type(holds) is bool for holds in verdict.values())
            assert not verdict["form"]
            assert NOTES.logp(text) == -math.inf
    assert not NOTES.check(" ".join(["the"] * 60))["items"]


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        ("until sunday , max", "until sunday , laura", {"friend"}),
        ("until sunday", "until monday", {"until"}),
        ("sincerely , laura", "sincerely , max", {"sender"}),
        ("sincerely", "love", {"sign_off"}),
        ("so she", "so he", {"pronouns"}),
        ("her old", "his old", {"pronouns"}),
        ("julia wrote", "max wrote", {"names", "pronouns"}),
        ("five apples", "four apples", {"sum"}),
        ("and spoons", "and apples", {"items"}),
        ("on thursday", "on tuesday", {"days"}),
        ("practise on", "mend on", {"repeats"}),
        ('hungry "', "hungry '", {"quotes"}),
        ("clever )", "clever ]", {"brackets"}),
        ("remember the race", "remember the picnic", {"occasion"}),
        ("we will remember the race", "join me by the river", {"place"}),
        ("forget the", "forget forget", {"form"}),
    ],
)
def test_each_constraint_by_name(old, new, broken):
    note = NOTES.sample(1, key=1)[0].replace(old, new)
    assert {name for name, holds in NOTES.check(note).items() if not holds} == broken


@pytest.mark.parametrize(
    ("held", "count", "low", "high"), [(0, 10, 0.0, 0.30850), (10, 10, 0.69150, 1.0), (5, 10, 0.18709, 0.81291)]
)
def test_exact_interval(held, count, low, high):
    """Against the tabulated Clopper-Pearson limits."""
    assert Share(held, count).interval() == pytest.approx((low, high), abs=1e-5)


def test_what_a_note_is_asked_is_decided_or_bounded_by_the_rest():
    """A decided word has no other of its kind; a bounded one may be another, but none that stands elsewhere."""
    kinds = {"names": (*notes._SHE, *notes._HE), "repeats": (*notes._ITEMS, *notes._TASKS)}
    kinds |= {"friend": kinds["names"], "sender": kinds["names"], "items": notes._ITEMS, "sum": notes._NUMBERS}
    kinds |= {
        "place": notes._PLACES,
        "occasion": notes._OCCASIONS,
        "sign_off": (*notes._SIGN_OFF, *notes._SIGN_OFF.values()),
    }
    seen = set()
    for text in NOTES.sample(40, key=21):
        words = text.split()
        for name, questions in NOTES.questions(text).items():
            seen.add(name)
            for places in questions:
                assert len({words[place] for place in places}) == 1
                right, other = words[places[0]], {word for word in words if word in kinds[name]}
                if name in ("names", "repeats"):
                    group = next(g for g in (notes._SHE, notes._HE, notes._ITEMS, notes._TASKS) if right in g)
                    free = next(word for word in group if word not in words)
                    assert all(NOTES.check(replaced(words, places, free)).values())
                    for taken in (other & {*group}) - {right}:
                        assert not NOTES.check(replaced(words, places, taken))[name]
                else:
                    for wrong in {*kinds[name]} - {right}:
                        assert not all(NOTES.check(replaced(words, places, wrong)).values()), (name, wrong)
    assert seen == {*kinds}


def replaced(words, places, word):
    return " ".join(word if place in places else old for place, old in enumerate(words))
