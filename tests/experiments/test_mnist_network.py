"""gpt/experiments/mnist.py: what trains, what decides, and whether dropout is off."""

import pytest
import torch

from gpt.experiments.mnist import SIZES, fit_network, network_accuracy, new_network
from gpt.lora import lora_layers, replace_linear_with_lora

LABELS = torch.arange(10).repeat(60)
NOISE = torch.randn(600, 784, generator=torch.Generator().manual_seed(0)) / 9
IMAGES = torch.nn.functional.one_hot(LABELS, 784) + NOISE    # one lit pixel for each class


def weights(network):
    return [p.clone() for p in network.parameters()]


def same(first, second):
    return all(map(torch.equal, first, second))


def test_it_has_the_parameters_of_its_sizes_and_starts_from_its_seed():
    assert sum(p.numel() for p in new_network(0).parameters()) == sum(i * o + o for i, o in SIZES) == 55_050
    assert same(weights(new_network(3)), weights(new_network(3))), "one seed gives two networks"
    assert not same(weights(new_network(3)), weights(new_network(4))), "two seeds give one network"


def test_it_learns_to_tell_ten_classes_apart():
    network = new_network(0)
    before = network_accuracy(network.eval(), IMAGES, LABELS)
    fit_network(network, IMAGES, LABELS, 20, 0.01, seed=0)
    assert before < 0.4 < 0.95 < network_accuracy(network, IMAGES, LABELS)


def test_training_depends_on_its_seed_alone_and_leaves_the_global_numbers_alone():
    torch.manual_seed(1)
    expected, found = torch.rand(1), []
    for seed in (5, 5, 6):
        torch.manual_seed(1)
        found.append(weights(fit_network(new_network(0), IMAGES, LABELS, 1, 0.01, seed)))
        assert torch.rand(1) == expected, "the caller's random numbers moved on"
        torch.rand(7)
    assert same(found[0], found[1]), "order or dropout come from elsewhere"
    assert not same(found[0], found[2]), "another seed has the same order and dropout"


def test_dropout_is_on_while_it_trains():
    without = new_network(0)
    without[2].p = without[5].p = 0.0
    networks = new_network(0), without
    with_it, without = (weights(fit_network(network, IMAGES, LABELS, 1, 0.01, seed=5)) for network in networks)
    assert not same(with_it, without), "it trains in eval mode: nothing drops out"


def test_after_training_dropout_is_off_and_only_then_do_two_tests_agree():
    network = fit_network(new_network(0), IMAGES, LABELS, 2, 0.01, seed=0)
    with torch.no_grad():    # all scores, not the accuracy: with dropout too that can be the same twice
        assert torch.equal(network(IMAGES), network(IMAGES)), "dropout is still on"
    network.train()
    with torch.no_grad():
        assert not torch.equal(network(IMAGES), network(IMAGES)), "the network has no dropout"
    assert len({network_accuracy(network, IMAGES, LABELS) for _ in range(20)}) > 1, "the mode is the caller's to choose"
    assert network.training


@pytest.mark.parametrize("rank", [1, 64])
def test_what_is_frozen_stays(rank):
    network = new_network(0)
    replace_linear_with_lora(network, rank, alpha=16)
    before = weights(network)
    fit_network(network, IMAGES, LABELS, 1, 0.01, seed=0)
    moved = {name for (name, p), old in zip(network.named_parameters(), before) if not torch.equal(p, old)}
    assert moved == {f"{name}.lora.{part}" for name, _ in lora_layers(network) for part in "AB"}
