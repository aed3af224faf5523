"""A small network for pictures of clothes or digits, how it learns, and how often it is right.

Read along: chapters/08_lora_inside.py.
"""

import torch
from torch import nn

from gpt.losses import class_loss
from gpt.train import training_step

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
