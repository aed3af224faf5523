"""gpt/config.py against OpenAI's released hparams.json files, and sizes of which no model can be built."""

from dataclasses import FrozenInstanceError, replace

import pytest

from gpt.config import GPT2_SIZES, GPTConfig

# n_layer, n_head, n_embd as they stand in the released files; n_vocab is 50257 and n_ctx 1024 in all four.
RELEASED = {
    "gpt2-small (124M)": (12, 12, 768),
    "gpt2-medium (355M)": (24, 16, 1024),
    "gpt2-large (774M)": (36, 20, 1280),
    "gpt2-xl (1558M)": (48, 25, 1600),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_sizes_are_openais(name):
    config = GPT2_SIZES[name]
    assert (config.n_layers, config.n_heads, config.emb_dim) == RELEASED[name]
    assert (config.vocab_size, config.context_length, config.qkv_bias) == (50257, 1024, True)
    assert config.emb_dim // config.n_heads == 64, "every released GPT-2 has 64 channels a head"


def test_mini_is_the_only_size_of_our_own_and_reads_the_same_tokens():
    assert GPT2_SIZES.keys() - RELEASED.keys() == {"mini"}
    assert GPT2_SIZES["mini"].vocab_size == 50257


def test_the_books_dictionary_of_settings_makes_a_config():
    base = {"vocab_size": 50257, "context_length": 1024, "drop_rate": 0.0, "qkv_bias": True}
    base.update({"emb_dim": 768, "n_layers": 12, "n_heads": 12})
    assert GPTConfig(**base) == GPTConfig() == GPT2_SIZES["gpt2-small (124M)"]


def test_a_config_cannot_drift_from_its_model():
    with pytest.raises(FrozenInstanceError):
        GPT2_SIZES["mini"].n_layers = 5


@pytest.mark.parametrize("change, reason", [
    ({"n_heads": 7}, "7 heads cannot share 768 channels evenly.* is 5, it must be 0"),
    ({"n_heads": 0}, "n_heads .* at least 1, got 0"),
    ({"n_layers": -2}, "n_layers .* at least 1, got -2"),
    ({"emb_dim": 768.0}, "emb_dim must be a whole number .* got 768.0"),
    ({"vocab_size": "50257"}, "vocab_size .* got '50257'"),
    ({"context_length": True}, "context_length .* got True"),
    ({"drop_rate": 1.0}, "drop_rate .* below 1, got 1.0"),
    ({"drop_rate": -0.1}, "drop_rate .* got -0.1"),
    ({"drop_rate": float("nan")}, "drop_rate .* got nan"),
])
def test_an_impossible_size_is_an_error_with_its_numbers(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(GPTConfig(), **change)
