"""MNIST, or Fashion-MNIST, as tensors, and a small network that learns to tell its pictures apart.

The four idx files:

    bytes 0, 0, type, axes    type 8 is unsigned bytes, the only one that is read here
    4 bytes for each axis     its size, the most significant byte first
    the numbers               the last axis fastest

Nothing in a file is believed: it may be cut short, damaged, or meant to fill the memory.

Read along: chapters/08_lora_inside.py. Source: LeCun, Cortes and Burges, The MNIST database; Xiao et al. 2017.
"""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import nn

from gpt.losses import class_loss
from gpt.train import training_step

LARGEST = 1 << 30    # bytes of numbers in one file; MNIST's largest has 47 million
SPLITS = ("train", "t10k")    # as the files call them: t10k are the 10,000 to test on
FASHION_MNIST = tuple(f"fashion-mnist/{split}-{part}-ubyte.gz" for split in SPLITS for part in
                      ("images-idx3", "labels-idx1"))    # names for gpt/download.py
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                   "Ankle boot")


def read_idx(path):
    """The numbers of an idx file, packed with gzip or not: its first two bytes say, whatever it is called.

    Output: a uint8 tensor with the axes that the file has
    Raises: OSError for a file that is not there; ValueError that begins with the path for one that is no idx file, of
        another type, empty, with numbers for more than LARGEST bytes, cut short, too long or damaged. No more is read
        than the header speaks of, and one byte, so neither a false size nor a gzip bomb takes memory
    """
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    try:
        with opener(path, "rb") as file:
            return _numbers(file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: gzip cannot unpack it, it is damaged or cut short: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _numbers(file):
    """What follows the header, in the axes that it tells. Raises: see read_idx, without the path."""
    header = file.read(4)
    if len(header) < 4 or header[:2] != b"\0\0":
        raise ValueError(f"it begins with {header!r}, an idx file with two bytes 0: did a download save an error page?")
    if header[2] != 8 or not 1 <= header[3] <= 4:
        raise ValueError(f"numbers of type {header[2]} on {header[3]} axes; read here are those of type 8, unsigned "
                         f"bytes, on 1 to 4 axes")
    sizes = file.read(4 * header[3])
    shape = [int.from_bytes(sizes[at:at + 4], "big") for at in range(0, len(sizes), 4)]
    size = math.prod(shape)
    if len(sizes) < 4 * header[3] or not 0 < size <= LARGEST:
        raise ValueError(f"its header speaks of {header[3]} axes, {shape}; read here are 1 to {LARGEST:,} bytes: is it "
                         f"damaged or cut short?")
    numbers = bytearray()    # grows with what is there: the header is no reason to take memory
    while piece := file.read(min(1 << 20, size + 1 - len(numbers))):    # at size + 1 it reads 0 bytes, and ends
        numbers += piece
    if len(numbers) != size:
        found = "more" if len(numbers) > size else f"only {len(numbers):,}"
        raise ValueError(f"its header speaks of {shape}, {size:,} bytes, but {found} follow: is it damaged?")
    return torch.frombuffer(numbers, dtype=torch.uint8).view(shape)


def read_mnist(folder):
    """The four files of MNIST, or of a set of the same form, in a folder, packed with gzip or not.

    Input: folder, with train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k for train; a dot before idx and .gz
        behind are names that they go by too
    Output: train images (N, pixels), train labels (N,), test images, test labels. Images are float32, 0..1, the rows of
        an image one after the other (28 x 28 are 784 pixels); labels int64, 0..9
    Raises: FileNotFoundError that lists the names looked for; ValueError that begins with a path and a colon: what
        read_idx raises, axes that are not (N, height, width) and (N,), as many labels as images are not there,
        labels above 9, test images with another number of pixels
    """
    found = [tensor for split in SPLITS for tensor in _read_split(folder, split)]
    if found[0].shape[1:] != found[2].shape[1:]:
        raise ValueError(f"{folder}: images to train on have {found[0].shape[1]} pixels, those to test on have "
                         f"{found[2].shape[1]}: files of two sets?")
    return tuple(found)


def _read_split(folder, split):
    """The images and labels of "train" or "t10k"."""
    (image_path, images), (label_path, labels) = (
        _read_part(folder, f"{split}-{part}", axes) for part, axes in (("images", 3), ("labels", 1)))
    if len(images) != len(labels):
        raise ValueError(f"{label_path}: {len(labels):,} labels for {len(images):,} images: files of two sets?")
    if labels.max() > 9:
        raise ValueError(f"{label_path}: labels go up to {labels.max()}, MNIST's to 9: is it EMNIST's?")
    return images.flatten(1).float().div_(255), labels.long()                         # (N, pixels), (N,)


def _read_part(folder, part, axes):
    """One of the four files: its path and its numbers."""
    names = [f"{part}{dot}idx{axes}-ubyte{ending}" for dot in "-." for ending in ("", ".gz")]
    paths = [path for name in names if (path := Path(folder, name)).is_file()]    # Kaggle has folders of these names
    if not paths:
        raise FileNotFoundError(f"{folder} has no file {' or '.join(names)}")
    numbers = read_idx(paths[0])
    if numbers.dim() != axes:
        raise ValueError(f"{paths[0]}: it has {numbers.dim()} axes and not {axes}: images and labels interchanged?")
    return paths[0], numbers


# ---- The network -----------------------------------------------------------------------------------------------------

SIZES = ((784, 64), (64, 64), (64, 10))    # in and out of each layer: 28 x 28 pixels, two hidden layers, ten classes


def new_network(seed):
    """Three linear layers with ReLU and dropout (0.2) after the first two, their weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, third = (nn.Linear(*size) for size in SIZES)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), second, nn.ReLU(), nn.Dropout(0.2), third)


def fit(network, images, labels, epochs, rate, seed):
    """Train what is not frozen, in place: AdamW, 128 images a batch, order and dropout drawn from the seed.

    Input: images (N, 784), labels (N,), on the network's device
    Output: the network, in eval mode: in training mode dropout would go on in whatever it is asked
    """
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], rate, weight_decay=0.0)
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        network.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(128):
                training_step(network, rows, lambda net, rows: class_loss(net(images[rows]), labels[rows]), optimizer)
    return network.eval()


@torch.no_grad()
def accuracy(network, images, labels):
    """How often the class with the highest score is right, 0..1, in the mode that the network is in.

    The trap: in training mode dropout is on, and the answers are those of another network every time.
    """
    return (network(images).argmax(dim=-1) == labels).float().mean().item()
