"""MNIST, or Fashion-MNIST, as tensors, and a small network that learns to tell its pictures apart.

Read along: chapters/08_lora_inside.py. Source: LeCun, Cortes and Burges, The MNIST database; Xiao et al. 2017.
"""

import math
from pathlib import Path

import torch
from torch import nn

from gpt.losses import class_loss
from gpt.storage.files import BadFile, read_unpacked
from gpt.train import training_step

SPLITS = ("train", "t10k")    # as the files call them: t10k are the 10,000 to test on
FASHION_MNIST = tuple(f"fashion-mnist/{split}-{part}-ubyte.gz" for split in SPLITS for part in
                      ("images-idx3", "labels-idx1"))    # names for gpt/download.py
SIZES = ((784, 64), (64, 64), (64, 10))    # in and out of each layer: 28 x 28 pixels, two hidden layers, ten classes


def read_mnist(folder):
    """The four files of MNIST, or of a set in the same format, in a folder, packed with gzip or not.

    Input: folder, with train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k for train (or .idx, and .gz behind)
    Output: train images (N, pixels), train labels (N,), test images, test labels. Images are float32, 0..1, the rows of
        an image one after the other (28 x 28 are 784 pixels); labels int64, 0..9
    Raises: FileNotFoundError that lists the names looked for; ValueError that begins with a file's path: what
        `read_idx` raises, another number of labels than of images, a label above 9
    """
    tensors = []
    for split in SPLITS:
        label_file = _find(folder, f"{split}-labels-idx1-ubyte")
        images = read_idx(_find(folder, f"{split}-images-idx3-ubyte"), 3)
        labels = read_idx(label_file, 1)
        if len(images) != len(labels):
            raise BadFile(f"{label_file}: {len(labels):,} labels for {len(images):,} images: files of two sets?")
        if labels.max() > 9:
            raise BadFile(f"{label_file}: labels go up to {labels.max()}, MNIST's to 9: is it EMNIST's?")
        tensors += [images.flatten(1).float().div_(255), labels.long()]               # (N, pixels), (N,)
    return tuple(tensors)


def _find(folder, name):
    """The path of a file by one of the four names under which copies of MNIST have it."""
    dotted = name.replace("-idx", ".idx")
    names = [name, f"{name}.gz", dotted, f"{dotted}.gz"]
    for path in (Path(folder, name) for name in names):
        if path.is_file():    # Kaggle has folders of these names
            return path
    raise FileNotFoundError(f"{folder} has no file {' or '.join(names)}")


def read_idx(path, axes):
    """The numbers of an idx file, a uint8 tensor with so many axes. Its first two bytes say whether gzip packed it.

    An idx file has two bytes 0, an 8 for unsigned bytes, the number of axes; the size of each axis in 4 bytes, the most
    significant first; then the numbers, the last axis fastest.

    Raises: OSError for a file that is not there; ValueError that begins with the path for one that gzip cannot unpack,
        that is no idx file of unsigned bytes on these axes, or that has another length than its header says
    """
    content = read_unpacked(path)
    magic = bytes([0, 0, 8, axes])
    start = 4 + 4 * axes
    if content[:4] != magic:
        raise BadFile(f"{path}: it begins with {content[:4]}, a {axes}-axis idx file of unsigned bytes with "
                      f"{magic}: is it an error page, or are images and labels interchanged?")
    shape = [int.from_bytes(content[at:at + 4], "big") for at in range(4, start, 4)]
    size = math.prod(shape)
    if size == 0 or len(content) != start + size:
        raise BadFile(f"{path}: its header speaks of {shape}, {size:,} bytes, but {len(content) - start:,} follow: "
                      f"is it damaged or cut short?")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


# ---- The network -----------------------------------------------------------------------------------------------------

def new_network(seed):
    """Three linear layers with ReLU and dropout (0.2) after the first two, their weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, third = (nn.Linear(*size) for size in SIZES)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), second, nn.ReLU(), nn.Dropout(0.2), third)


def fit_network(network, images, labels, epochs, rate, seed):
    """Train what is not frozen, in place: AdamW, batches of 128 images, order and dropout drawn from the seed.

    Input: images (N, 784), labels (N,), on the network's device
    Output: the network, in eval mode, because in training mode dropout would go on
    """
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], rate, weight_decay=0.0)
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        network.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(128):
                training_step(network, rows, lambda net, rows: class_loss(net(images[rows]), labels[rows]), optimizer)
    return network.eval()


@torch.no_grad()
def network_accuracy(network, images, labels):
    """The share of images, 0..1, whose class has the highest score, in the mode that the network is in.

    The trap: in training mode dropout is on, and every call measures another network.
    """
    return (network(images).argmax(dim=-1) == labels).float().mean().item()
