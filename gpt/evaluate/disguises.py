"""Messages changed in ways that a person reads past: what does a classifier withstand?

Who sends spam writes so that people read it and filters do not. Each disguise is a function of a text and a random
generator, which only some need; what the text says to a person stays.

Read along: chapters/10_believe_the_number.py.
"""

import re

import numpy as np

from gpt.evaluate.metrics import class_scores, confusion_matrix, share

LETTER = r"[^\W\d_]"    # what \w is, but for digits and the underscore: letters of any script
DIGIT_FOR = dict(zip("aeiosAEIOS", "4310543105", strict=True))
CYRILLIC = str.maketrans("aeopcx", "\u0430\u0435\u043e\u0440\u0441\u0445")    # by number: here too they look alike
ZERO_WIDTH_SPACE = "\u200b"


def other_digits(text, rng):
    """Each digit 0-9 becomes one of the nine others: "call 0800" -> "call 7316". Numbers change, their kind does not.

    Who learnt that spam says 08000930705 by heart has learnt nothing of the next number.
    """
    return re.sub("[0-9]", lambda digit: str((int(digit[0]) + rng.integers(1, 10)) % 10), text)


def letters_as_digits(text, rng):
    """a, e, i, o, s become 4, 3, 1, 0, 5, each with probability one half: "free" -> "fr3e", "fr33", ...

    One half, so that a word has many spellings and none can be forbidden. A letter changes only behind another letter:
    its first letter is what a person knows a word by, and "is" as 15 would be a number.
    """
    def changed(letter):
        return DIGIT_FOR[letter[0]] if rng.random() < 0.5 else letter[0]

    return re.sub(f"(?<={LETTER})[aeiosAEIOS]", changed, text)


def invisible_signs(text, rng):
    """A zero-width space, U+200B, in the middle of each word of four letters or more; of an odd number, before it.

    Nothing is to be seen, and a list of forbidden words finds none of them any more.
    """
    def split(word):
        middle = len(word[0]) // 2
        return word[0][:middle] + ZERO_WIDTH_SPACE + word[0][middle:]

    return re.sub(f"{LETTER}{{4,}}", split, text)


# The first changes nothing: in a table it is the row that the others are compared with.
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

    Text i draws from np.random.default_rng([seed, d, i]), where the disguise is number d of DISGUISES, from 0. So what
    becomes of a text depends neither on the other texts nor on which disguises were tried before.

    Input: texts, a list of str; name, a key of DISGUISES; seed, a whole number from 0
    Output: a list of str, as long and in the same order
    Raises: ValueError for a name that is no disguise, with those that are; for one text that is in no list
    """
    if name not in DISGUISES:
        raise ValueError(f"there is no disguise {name!r}: there are {', '.join(DISGUISES)}")
    if isinstance(texts, str):
        raise ValueError("disguised takes a list of texts, this is one text: write [text]")
    place = list(DISGUISES).index(name)
    return [DISGUISES[name](text, np.random.default_rng([seed, place, i])) for i, text in enumerate(texts)]


def withstood(before, after, labels):
    """How the answers to the same n messages changed from plain to disguised, and how good the new ones are.

    The trap: a classifier that answers spam to everything has recall 1 in any disguise, and ham_lost says so.

    Input: before, after (n,), predicted classes of the plain and of the disguised messages, 0 or 1; labels (n,), the
        true ones. Lists, arrays or tensors
    Output: a dict of shares, 0..1, or None where there is nothing to have a share of:
        changed    messages whose answer is another than before
        recall     of those of class 1, answered 1 after
        ham_lost   of those of class 0, answered 1 after
        accuracy   of all, answered rightly after
    Raises: ValueError for lengths that differ and for a class that is neither 0 nor 1
    """
    confusion = confusion_matrix(labels, after, 2)                                    # (2, 2)
    moved = confusion_matrix(before, after, 2)                                        # (2, 2)
    n, ham = len(labels), int(confusion[0].sum())
    return {"changed": share(int(moved[0, 1] + moved[1, 0]), n), "recall": class_scores(confusion, 1)["recall"],
            "ham_lost": share(int(confusion[0, 1]), ham), "accuracy": share(int(confusion.trace()), n)}
