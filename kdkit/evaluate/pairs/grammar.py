"""Minimal pairs of English grammar made here, so that they need no download: `kdkit-grammar`.

Each pair differs in one word, or in the order of its words, and only the first sentence is English. Where the rule is
agreement, every form stands as often in the good sentences as in the bad ones, so that a model which knows how
frequent words are, and nothing of grammar, is right in half of them. What each phenomenon is called, and which there
are, follows BLiMP (Warstadt et al. 2020, arXiv:1912.00582); the sentences are our own.
"""

from collections.abc import Callable, Iterator
from itertools import product

PAIRS_EACH = 60
"""Pairs of every phenomenon."""

NOUNS = [
    ("cat", "cats"),
    ("dog", "dogs"),
    ("teacher", "teachers"),
    ("girl", "girls"),
    ("boy", "boys"),
    ("bird", "birds"),
    ("friend", "friends"),
    ("farmer", "farmers"),
    ("doctor", "doctors"),
    ("king", "kings"),
]
THINGS = [
    ("book", "books"),
    ("table", "tables"),
    ("box", "boxes"),
    ("house", "houses"),
    ("tree", "trees"),
    ("letter", "letters"),
    ("picture", "pictures"),
    ("car", "cars"),
    ("flower", "flowers"),
    ("door", "doors"),
]
VERBS = [
    ("sleeps", "sleep"),
    ("runs", "run"),
    ("sings", "sing"),
    ("works", "work"),
    ("plays", "play"),
    ("laughs", "laugh"),
    ("waits", "wait"),
    ("walks", "walk"),
]
ADJECTIVES = ["old", "small", "happy", "tall", "new", "big", "quiet", "little"]
TIMES = ["every day", "at night", "in the morning", "here"]
PEOPLE = [
    ("man", "himself"),
    ("father", "himself"),
    ("king", "himself"),
    ("boy", "himself"),
    ("brother", "himself"),
    ("woman", "herself"),
    ("mother", "herself"),
    ("queen", "herself"),
    ("girl", "herself"),
    ("sister", "herself"),
]
WANTED = ["saw", "liked", "found", "wanted"]
SEEN = ["saw", "hurt", "helped", "liked", "found", "washed"]
IRREGULAR = [
    ("children", "childs"),
    ("men", "mans"),
    ("women", "womans"),
    ("mice", "mouses"),
    ("feet", "foots"),
    ("teeth", "tooths"),
    ("geese", "gooses"),
    ("knives", "knifes"),
    ("leaves", "leafs"),
    ("wolves", "wolfs"),
]
PARTICIPLES = [
    ("gone", "went"),
    ("seen it", "saw it"),
    ("eaten", "ate"),
    ("written", "wrote"),
    ("taken it", "took it"),
    ("begun", "began"),
    ("fallen", "fell"),
    ("spoken", "spoke"),
]
CASES = [("him", "he"), ("her", "she"), ("them", "they"), ("me", "I"), ("us", "we")]
AN, A = ["apple", "egg", "old box", "orange", "idea", "open door"], ["book", "tree", "new box", "letter", "car", "door"]

Sentences = Iterator[tuple[str, str]]
"""Good and bad ones."""


def _subject_verb() -> Sentences:
    for verb, noun, time, number in product(VERBS, NOUNS, TIMES, (0, 1)):
        yield f"The {noun[number]} {verb[number]} {time}.", f"The {noun[number]} {verb[1 - number]} {time}."


def _across_phrase() -> Sentences:
    for noun, thing, adjective, number in product(NOUNS, THINGS, ADJECTIVES, (0, 1)):
        start = f"The {noun[number]} near the {thing[1 - number]}"
        forms = ("is", "are")
        yield f"{start} {forms[number]} {adjective}.", f"{start} {forms[1 - number]} {adjective}."


def _across_clause() -> Sentences:
    for noun, thing, verb, number in product(NOUNS, THINGS, VERBS, (0, 1)):
        start = f"The {noun[number]} that {('likes', 'like')[number]} the {thing[1 - number]}"
        yield f"{start} {verb[number]}.", f"{start} {verb[1 - number]}."


def _determiner_noun() -> Sentences:
    for thing, pair, verb, number in product(THINGS, (("this", "these"), ("that", "those")), WANTED, (0, 1)):
        start = f"She {verb} {pair[number]}"
        yield f"{start} {thing[number]}.", f"{start} {thing[1 - number]}."


def _determiner_adjective_noun() -> Sentences:
    determiners = (("this", "these"), ("that", "those"))
    for thing, pair, adjective, number in product(THINGS, determiners, ADJECTIVES, (0, 1)):
        start = f"He found {pair[number]} {adjective}"
        yield f"{start} {thing[number]}.", f"{start} {thing[1 - number]}."


def _reflexive_gender() -> Sentences:
    for (person, own), verb in product(PEOPLE, SEEN):
        other = {"himself": "herself", "herself": "himself"}[own]
        yield f"The {person} {verb} {own}.", f"The {person} {verb} {other}."


def _reflexive_number() -> Sentences:
    # two sentences for each, so that both forms stand on both sides
    for (person, own), verb in product([each for each in PEOPLE if not each[0].endswith("man")], SEEN):
        yield f"The {person} {verb} {own}.", f"The {person} {verb} themselves."
        yield f"The {person}s {verb} themselves.", f"The {person}s {verb} {own}."


def _irregular_plural() -> Sentences:
    for (good, bad), start in product(IRREGULAR, ("She saw two", "There are many", "He has three", "I like these")):
        for end in (".", " here."):
            yield f"{start} {good}{end}", f"{start} {bad}{end}"


def _polarity() -> Sentences:
    for thing, verb, (good, bad) in product(
        THINGS, ("seen", "opened", "liked"), (("Nobody", "Somebody"), ("None of us", "Some of us"))
    ):
        yield f"{good} has ever {verb} the {thing[0]}.", f"{bad} has ever {verb} the {thing[0]}."


def _participle() -> Sentences:
    for noun, (good, bad) in product(NOUNS, PARTICIPLES):
        yield f"The {noun[0]} has {good}.", f"The {noun[0]} has {bad}."


def _after_modal() -> Sentences:
    for noun, verb, modal in product(NOUNS, VERBS, ("can", "will", "must")):
        yield f"The {noun[0]} {modal} {verb[1]}.", f"The {noun[0]} {modal} {verb[0]}."


def _pronoun_case() -> Sentences:
    for thing, (good, bad), verb in product(THINGS, CASES, ("gave", "sent", "showed")):
        yield f"The king {verb} the {thing[0]} to {good}.", f"The king {verb} the {thing[0]} to {bad}."


def _article() -> Sentences:
    for (vowel, consonant), verb in product(zip(AN, A, strict=True), [*WANTED, "has"]):
        yield f"She {verb} an {vowel}.", f"She {verb} a {vowel}."
        yield f"She {verb} a {consonant}.", f"She {verb} an {consonant}."


def _adjective_order() -> Sentences:
    for adjective, noun, verb in product(ADJECTIVES, NOUNS, VERBS):
        yield f"The {adjective} {noun[0]} {verb[0]}.", f"The {noun[0]} {adjective} {verb[0]}."


def _question_order() -> Sentences:
    for word, thing, number in product(("Where", "Why", "How", "When"), THINGS, (0, 1)):
        form = ("was", "were")[number]
        yield f"{word} {form} the {thing[number]} found?", f"{word} the {thing[number]} {form} found?"


PHENOMENA: dict[str, Callable[[], Sentences]] = {
    "subject-verb agreement": _subject_verb,
    "agreement across a phrase": _across_phrase,
    "agreement across a relative clause": _across_clause,
    "determiner-noun agreement": _determiner_noun,
    "determiner-adjective-noun agreement": _determiner_adjective_noun,
    "reflexive agreement, gender": _reflexive_gender,
    "reflexive agreement, number": _reflexive_number,
    "irregular plural": _irregular_plural,
    "negative polarity": _polarity,
    "participle after has": _participle,
    "verb after a modal": _after_modal,
    "case of a pronoun": _pronoun_case,
    "a and an": _article,
    "adjective before noun": _adjective_order,
    "order of a question": _question_order,
}
AGREEMENT = (*(name for name in PHENOMENA if "agreement" in name), "a and an")
"""Where every form stands as often in good sentences as in bad ones."""


def make_pairs() -> list[tuple[str, str, str]]:
    """Return good sentence, bad sentence and phenomenon of all pairs; always the same."""
    return [(good, bad, name) for name, make in PHENOMENA.items() for good, bad in _spread(list(make()))]


def _spread(sentences: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Choose pairs all over a list, two neighbours at a time: they often are the two halves of a balanced pair."""
    halves = [sentences[i : i + 2] for i in range(0, len(sentences), 2)]
    wanted = min(PAIRS_EACH // 2, len(halves))
    return [pair for place in range(wanted) for pair in halves[place * len(halves) // wanted]]
