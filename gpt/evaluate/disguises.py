"""Messages changed in ways that a person reads past, as spammers change them: what does a classifier withstand?

Read along: chapters/10_believe_the_number.py.
"""

import re

import numpy as np

from gpt.evaluate.calibration import measures
from gpt.evaluate.metrics import confusion_matrix, share

LETTER = r"[^\W\d_]"    # \w without digits and the underscore: letters of any script
DIGIT_FOR = dict(zip("aeiosAEIOS", "4310543105", strict=True))
CYRILLIC = str.maketrans("aeopcx", "\u0430\u0435\u043e\u0440\u0441\u0445")    # by number: here too they look alike
ZERO_WIDTH_SPACE = "\u200b"


def other_digits(text, rng):
    """Each digit 0-9 becomes one of the nine others: "call 0800" -> "call 7316". A memorised number helps no more."""
    return re.sub("[0-9]", lambda digit: str((int(digit[0]) + rng.integers(1, 10)) % 10), text)


def letters_as_digits(text, rng):
    """a, e, i, o, s become 4, 3, 1, 0, 5, each with probability one half: "free" -> "fr3e", "fr33", ...

    So a word has many spellings, and no list holds them all. A letter changes only behind another letter, because
    people recognise a word by its first letter, and "is" as 15 would be a number.
    """
    def changed(letter):
        return DIGIT_FOR[letter[0]] if rng.random() < 0.5 else letter[0]

    return re.sub(f"(?<={LETTER})[aeiosAEIOS]", changed, text)


def invisible_signs(text, rng):
    """A zero-width space, U+200B, in the middle of each word of four letters or more, before an odd middle letter.

    Nothing can be seen, but a list of forbidden words finds none of them.
    """
    def split(word):
        middle = len(word[0]) // 2
        return word[0][:middle] + ZERO_WIDTH_SPACE + word[0][middle:]

    return re.sub(f"{LETTER}{{4,}}", split, text)


# Functions of a text and a random generator. The first changes nothing: the others are compared with it.
DISGUISES = {
    "as it is": lambda text, rng: text,
    "spaces at the end": lambda text, rng: text + " " * 10,
    "upper case": lambda text, rng: text.upper(),
    "lower case": lambda text, rng: text.lower(),
    "other digits": other_digits,
    "letters as digits": letters_as_digits,
    "invisible signs": invisible_signs,
    "look-alike letters": lambda text, rng: text.translate(CYRILLIC),
}


def disguised(texts, name, seed):
    """All texts in one disguise.

    Text i draws from np.random.default_rng([seed, d, i]), where the disguise is number d of DISGUISES, from 0. So the
    result depends neither on the other texts nor on which disguises were tried before.

    Input: texts, a list of str; name, a key of DISGUISES; seed, a whole number from 0
    Output: a list of str, in the same order
    Raises: ValueError for a name that is no disguise, with those that are; for one text that is in no list
    """
    if name not in DISGUISES:
        raise ValueError(f"there is no disguise {name!r}: there are {', '.join(DISGUISES)}")
    if isinstance(texts, str):
        raise ValueError("disguised takes a list of texts, this is one text: write [text]")
    place = list(DISGUISES).index(name)
    return [DISGUISES[name](text, np.random.default_rng([seed, place, i])) for i, text in enumerate(texts)]


def withstood(before, after, labels):
    """How the predictions for the same n messages changed from plain to disguised, and how good the new ones are.

    The trap: a classifier that calls everything spam has recall 1 in any disguise, and only ham_lost shows it.

    Input: before, after (n,), predicted classes of the plain and of the disguised messages, 0 or 1; labels (n,), the
        true ones. Lists, arrays or tensors
    Output: a dict of shares, 0..1, or None where there is nothing to have a share of: changed, of the messages whose
        prediction changed; recall, ham_lost and accuracy of the predictions after, as `measures` has them
    Raises: ValueError for lengths that differ and for a class that is neither 0 nor 1
    """
    moved = confusion_matrix(before, after, 2)                                        # (2, 2)
    found = measures(labels, after)
    return {"changed": share(int(moved[0, 1] + moved[1, 0]), len(labels)), "recall": found["recall"],
            "ham_lost": found["ham_lost"], "accuracy": found["accuracy"]}
