"""Three tests for one classifier: the blog's, a balanced one without leaks, and one as unequal as the file is.

Read along: chapters/10_believe_the_number.py. Splits are three DataFrames, train, validation, test, whose column Row
says which row of the file a message is: what two classifiers answered to the same message can then be compared.
"""

import pandas as pd

from gpt.spam import create_balanced_dataset, normalised, random_split, read_sms, split_without_leaks

CONDITIONS = ("blog", "balanced", "natural")


def splits_of(condition, path, seed):
    """The training, validation and test messages of a condition, drawn by a seed.

        blog        read, balanced and cut as the blog does; its own split has the seed 123
        balanced    chapter 6's default: every message read, 747 + 747, no two splits share one, give or take digits
        natural     the balanced splits, and with them the 4,080 ham that balancing left out: see `with_the_rest`

    A seed's balanced messages are the first rows of its natural splits.

    Input: path of the SMS file
    Raises: ValueError for another condition
    """
    if condition not in CONDITIONS:
        raise ValueError(f"there is no condition {condition!r}: there are {', '.join(CONDITIONS)}")
    messages = read_sms(path, blog=condition == "blog")
    messages = messages.assign(Row=range(len(messages)))
    balanced = create_balanced_dataset(messages, random_state=seed)
    if condition == "blog":
        return tuple(split.reset_index(drop=True) for split in random_split(balanced, 0.7, 0.1, random_state=seed))
    splits = split_without_leaks(balanced, 0.7, 0.1, seed=seed)
    return splits if condition == "balanced" else with_the_rest(messages, splits, seed)


def with_the_rest(messages, splits, seed):
    """The splits, each followed by its part of the messages that none of them has.

    A message whose near-copy (`normalised`) is in a split joins it; the others are split as `split_without_leaks` does,
    70/10/20. So there are still no leaks, and a test on the larger split asks about messages that a model which was
    trained on the smaller one has not seen either.

    Input: messages and the splits, DataFrames with the columns Label, Text and Row; seed, of the drawing
    Output: as many new ones, their rows numbered from 0: a split's own messages, those that join it, those drawn for it
    """
    home = {normalised(text): i for i, split in enumerate(splits) for text in split["Text"]}
    rest = messages[~messages["Row"].isin(pd.concat(splits)["Row"])]
    place = rest["Text"].map(lambda text: home.get(normalised(text), -1))
    drawn = split_without_leaks(rest[place == -1], 0.7, 0.1, seed=seed)
    return tuple(pd.concat([split, rest[place == i], drawn[i]], ignore_index=True) for i, split in enumerate(splits))


def first_of_each(table, n):
    """The first n rows as far as each label gets its share: n/2 of either for two labels, in the table's order.

    So the messages of a smaller n are among those of a larger one. Of a label that has too few, all.
    """
    labels = table["Label"].unique()
    return table.groupby("Label", sort=False).head(n // len(labels)).reset_index(drop=True)


def near_copies(train, test):
    """The test messages whose letters a training message has too, beside that message.

    Output: a DataFrame, a row for each: test (the text), training (the first such text), exact (are they equal?)
    """
    seen = {}
    for text in train["Text"]:
        seen.setdefault(normalised(text), []).append(text)
    rows = [(text, seen[key][0], text in seen[key]) for text in test["Text"] if (key := normalised(text)) in seen]
    return pd.DataFrame(rows, columns=["test", "training", "exact"])
