"""How the official VQA evaluator spells an answer before it compares it (no torch, no numpy).

The rules are those of the VQA team's evaluator, oddities included; published numbers depend on them. The order matters:
punctuation first, then number words, articles and contractions. ``README.md`` lists what is odd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS: Mapping[str, str] = {
    "none": "0",
    **dict(
        zip(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
            map(str, range(11)),
            strict=True,
        )
    ),
}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# What the evaluator writes -> the spellings that become it
_CONTRACTIONS = """
ain't: aint / aren't: arent / can't: cant / could've: couldve / couldn't: couldnt / couldn't've: couldn'tve couldnt've /
didn't: didnt / doesn't: doesnt / don't: dont / hadn't: hadnt / hadn't've: hadnt've hadn'tve / hasn't: hasnt /
haven't: havent / he'd: hed / he'd've: hed've he'dve / he's: hes / how'd: howd / how'll: howll / how's: hows /
I'd've: Id've I'dve / I'm: Im / I've: Ive / isn't: isnt / it'd: itd / it'd've: itd've it'dve / it'll: itll /
let's: let's / ma'am: maam / mightn't: mightnt / mightn't've: mightnt've mightn'tve / might've: mightve /
mustn't: mustnt / must've: mustve / needn't: neednt / not've: notve / o'clock: oclock / oughtn't: oughtnt /
'ow's'at: ow's'at 'ows'at 'ow'sat / shan't: shant / she'd've: shed've she'dve / she's: she's / should've: shouldve /
shouldn't: shouldnt / shouldn't've: shouldnt've shouldn'tve / somebodyd: somebody'd /
somebody'd've: somebodyd've somebody'dve / somebody'll: somebodyll / somebody's: somebodys / someone'd: someoned /
someone'd've: someoned've someone'dve / someone'll: someonell / someone's: someones / something'd: somethingd /
something'd've: somethingd've something'dve / something'll: somethingll / that's: thats / there'd: thered /
there'd've: thered've there'dve / there're: therere / there's: theres / they'd: theyd / they'd've: theyd've they'dve /
they'll: theyll / they're: theyre / they've: theyve / 'twas: twas / wasn't: wasnt / we'd've: wed've we'dve /
we've: weve / weren't: werent / what'll: whatll / what're: whatre / what's: whats / what've: whatve / when's: whens /
where'd: whered / where's: wheres / where've: whereve / who'd: whod / who'd've: whod've who'dve / who'll: wholl /
who's: whos / who've: whove / why'll: whyll / why're: whyre / why's: whys / won't: wont / would've: wouldve /
wouldn't: wouldnt / wouldn't've: wouldnt've wouldn'tve / y'all: yall / y'all'll: yall'll y'allll /
y'all'd've: yall'd've y'alld've y'all'dve / you'd: youd / you'd've: youd've you'dve / you'll: youll /
you're: youre / you've: youve
"""
CONTRACTIONS: Mapping[str, str] = {
    spelling: written
    for entry in _CONTRACTIONS.split(" /")
    for written, spellings in [entry.strip().split(": ")]
    for spelling in spellings.split()
}

_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the evaluator passes a flag, whose value this is, where the number of replacements belongs
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")


def one_line(answer: str) -> str:
    """Turns line breaks and tabs into spaces and strips outer white space."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(answer: str) -> str:
    """Deletes the marks of ``PUNCTUATION``, or puts a space in their place; deletes periods.

    A mark is deleted everywhere if it stands beside a space anywhere in the answer, or if a comma stands between digits
    anywhere; otherwise it becomes a space. A period before a digit stays.
    """
    has_number = _NUMBER_WITH_COMMA.search(answer) is not None
    spelled = answer
    for mark in PUNCTUATION:
        if mark in answer:
            is_deleted = has_number or f"{mark} " in answer or f" {mark}" in answer
            spelled = spelled.replace(mark, "" if is_deleted else " ")
    return _PERIOD.sub("", spelled, count=_MOST_PERIODS)


def with_plain_words(answer: str) -> str:
    """Writes lower case, digits for number words up to ten, no articles, apostrophes in contractions, single spaces."""
    numbers = (NUMBER_WORDS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbers if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """Does both steps, as the evaluator where people disagree."""
    return with_plain_words(without_punctuation(answer))


def vocabulary_spelling(answer: str) -> str:
    """Spells an answer as the published vocabularies do: normalised, and without the commas that are left."""
    return normalise(answer).replace(",", "")
