"""The plain text that the mini model was trained on: WikiText-2 and 20 Newsgroups, cleaned, as windows of tokens.

Read along: chapters/04_weights.py. Sources: Merity et al. 2016 (WikiText-2); Lang 1995 (20 Newsgroups).
"""

import gzip
import io
import math
import pickle
import re
import tarfile
import zlib

import torch

from gpt.tokenizer import END_OF_TEXT


def read_wikitext(path):
    """WikiText-2's articles as running text.

    The file has its tokens apart: "a 5 @-@ year @-@ old ship of 1 @,@ 200 tons , sunk in 1 @.@ 5 hours"
    becomes "a 5-year-old ship of 1,200 tons, sunk in 1.5 hours". What closes up to the left: , . ; : ! ? % ) ] 's n't
    and ' with small letters; to the right: ( [ $ £ #; a pair of quotation marks on one line: around its text.
    An article begins at a line " = Title = ", without = inside.

    Input: path of train.raw.gz or valid.raw.gz
    Output: list of str, one for each article
    """
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    text = re.sub(r" @([-,.])@ ", r"\1", text)                                # inside words and numbers: 1 @,@ 200
    text = re.sub(r" ([,.;:!?%)\]]|'s\b|n't\b|'[a-z]+\b)", r"\1", text)     # what stands close to the word before it
    text = re.sub(r"([(\[$£#]) ", r"\1", text)                               # what stands close to the word after it
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)                          # a pair of quotation marks
    articles = re.split(r"\n (?== [^=\n]+ = \n)", text)                      # before each title: = Robert Boulter =
    return [article.strip() for article in articles if article.strip()]


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of lists, strings and arrays; whatever else it names is refused, not imported."""

    ALLOWED = {("sklearn.utils", "Bunch"), ("sklearn.utils._bunch", "Bunch"), ("sklearn.datasets.base", "Bunch"),
               ("numpy", "ndarray"), ("numpy", "dtype"),
               ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of newsgroup posts")
        return dict if name == "Bunch" else super().find_class(module, name)


def read_newsgroups(path):
    """The posts of 20 Newsgroups: (training posts, test posts), two lists of str, as the archive divides them.

    The two files hold the same posts in two orders: in the .pkz they are shuffled.

    Input: path of 20news-bydate.tar.gz, or of the same posts as 20news-bydate_py3.pkz
    """
    if path.name.endswith(".pkz"):
        posts = _PlainUnpickler(io.BytesIO(zlib.decompress(path.read_bytes()))).load()
        return posts["train"]["data"], posts["test"]["data"]
    parts = {"20news-bydate-train": [], "20news-bydate-test": []}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                parts[member.name.split("/")[0]].append(archive.extractfile(member).read().decode("latin-1"))
    return parts["20news-bydate-train"], parts["20news-bydate-test"]


# A quoted line (> | : or } after at most 4 letters or digits, the initials of who is quoted), the line that introduces
# it (it ends in writes, wrote, says or said, or begins with "In article"), or 40 signs without a space, as an
# encoded file has. It costs lines of the writer's own too, such as "PS: ...".
QUOTED_OR_CODE = re.compile(r"^\s*\w{0,4}[>|:}]|(writes|wrote|says|said) ?:?\s*$|^In article|\S{40,}")


def clean_post(post):
    """What the writer of a post wrote, as running text: no headers, quoted lines, e-mail addresses or encoded files;
    the lines of a paragraph are joined.

    The headers end at the first empty line. The post ends at its signature ("--" alone on a line), or at a line that
    begins with 10 of - _ = * +, whatever follows it; neither is looked for in its first line.
    """
    body = post.partition("\n\n")[2]
    body = re.split(r"\n-- ?\n|\n[-_=*+]{10,}", body)[0]
    body = re.sub(r"<?\b[\w.+-]+@[\w-]+\.[\w.-]*\w>?", "", body)
    lines = [" ".join(line.split()) for line in body.split("\n") if not QUOTED_OR_CODE.search(line)]
    return re.sub(r"(?<=\S)\n(?=\S)", " ", "\n".join(lines)).strip()


def encode_documents(documents, tokenizer):
    """All documents as one row of ids with <|endoftext|> before each, so that a text can begin from nothing.

    Output: (N,) int32, half the memory of torch's default
    """
    rows = tokenizer.encode_ordinary_batch(documents, num_threads=2)
    return torch.cat([torch.tensor([END_OF_TEXT, *row], dtype=torch.int32) for row in rows])


class TextWindows:
    """A long row of tokens cut into batches of windows, (B, T + 1) each, in an order that (seed, epoch) decides.

    Neighbouring windows share one token: the last to predict of one is the first to read of the next. Each epoch starts
    its cuts at another offset, so that a token is seen at other positions too. N tokens make (N - 1) // window - 1
    windows an epoch; its last batch may be smaller. `batches` ends an epoch early.

    rows: for each batch of this epoch, the places in the text where its windows begin
    Raises: ValueError for fewer than 2 window + 1 tokens
    """

    def __init__(self, tokens, window, batch_size, seed=0, batches=None):
        if len(tokens) < 2 * window + 1:
            raise ValueError(f"{len(tokens)} tokens are too few for windows of {window}: at least {2 * window + 1}")
        self.tokens, self.window, self.batch_size, self.seed = tokens, window, batch_size, seed
        self.count = (len(tokens) - 1) // window - 1    # one fewer than fit, which leaves room for the offset
        self.batches = min(batches or self.count, math.ceil(self.count / batch_size))
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Fix the cuts and the order of an epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        offset = int(torch.randint(self.window, (), generator=generator))
        starts = offset + self.window * torch.randperm(self.count, generator=generator)
        self.rows = [batch.tolist() for batch in starts.split(self.batch_size)[:self.batches]]

    def __len__(self):
        return self.batches

    def __iter__(self):
        """For each batch of `rows`: the T + 1 tokens from each of its beginnings on, int64, one window a row."""
        for starts in self.rows:
            yield self.tokens[torch.tensor(starts)[:, None] + torch.arange(self.window + 1)].long()    # (B, T + 1)
