"""The names, arguments and shapes of the blog's script: who has it in hand changes its import lines and runs it."""

import shutil

import pandas as pd
import torch
from conftest import TINY
from torch.utils.data import DataLoader

from gpt.classify import calc_accuracy_loader
from gpt.config import GPTConfig
from gpt.download import fetch
from gpt.generate import generate_text_simple
from gpt.lora import LinearWithLoRA, LoRALayer, count_parameters, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.plots import plot_values
from gpt.spam import SpamDataset, create_balanced_dataset, random_split
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids, token_ids_to_text
from gpt.train import train_classifier_simple
from gpt.weights import download_and_load_gpt2, load_weights_into_gpt

BASE_CONFIG = {"vocab_size": 50257, "context_length": 1024, "drop_rate": 0.0, "qkv_bias": True,
               "emb_dim": 16, "n_layers": 2, "n_heads": 2}


def seed_loaders(folder):
    """The blog's data section: pandas reads the file, the splits travel as CSV files, all messages have one length."""
    df = pd.read_csv(fetch("sms"), sep="\t", header=None, names=["Label", "Text"])
    balanced = create_balanced_dataset(df)
    balanced["Label"] = balanced["Label"].map({"ham": 0, "spam": 1})
    frames = dict(zip(("train", "validation", "test"), random_split(balanced, 0.7, 0.1)))
    tokenizer, max_length, datasets = gpt2_tokenizer(), None, []
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=None)
        datasets.append(SpamDataset(folder / f"{name}.csv", max_length=max_length, tokenizer=tokenizer))
        max_length = datasets[0].max_length
    loaders = [DataLoader(datasets[0], batch_size=8, shuffle=True, num_workers=0, drop_last=True)]
    return loaders + [DataLoader(dataset, batch_size=8, num_workers=0, drop_last=False) for dataset in datasets[1:]]


def test_the_blogs_data_section_gives_the_blogs_batches(tmp_path):
    loaders = seed_loaders(tmp_path)
    assert [len(loader) for loader in loaders] == [130, 19, 38]
    ids, labels = next(iter(loaders[0]))
    assert ids.shape == (8, 120) and labels.shape == (8,) and ids.dtype == labels.dtype == torch.int64


def test_the_blogs_training_section_runs_and_learns(tmp_path, capsys):
    train_loader, val_loader, _ = seed_loaders(tmp_path)
    torch.manual_seed(123)
    model = GPTModel(GPTConfig(**BASE_CONFIG))
    model.eval()
    model.out_head = torch.nn.Linear(in_features=BASE_CONFIG["emb_dim"], out_features=2)
    model.to("cpu")
    before = calc_accuracy_loader(train_loader, model, "cpu", num_batches=10)
    for parameter in model.parameters():
        parameter.requires_grad = False
    replace_linear_with_lora(model, rank=16, alpha=16)
    assert isinstance(model.out_head, LinearWithLoRA), "the blog gives the head a LoRA too"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    train_losses, val_losses, train_accs, val_accs, examples_seen = train_classifier_simple(
        model, train_loader, val_loader, optimizer, "cpu", num_epochs=1, eval_freq=50, eval_iter=5)
    assert len(train_losses) == len(val_losses) == 3, "it looks after steps 1, 51 and 101"
    assert len(train_accs) == len(val_accs) == 1 and examples_seen == 130 * 8
    assert train_losses[-1] < train_losses[0] and 0 <= before <= 1, "a LoRA on random weights still learns something"
    assert "Ep 1 (Step 000050): Train loss" in capsys.readouterr().out
    epochs, examples = torch.linspace(0, 1, len(train_losses)), torch.linspace(0, examples_seen, len(train_losses))
    assert len(plot_values(epochs, examples, train_losses, val_losses, label="loss").axes) == 2


def test_the_blogs_loading_section_fills_a_model(tmp_path):
    shutil.copytree(TINY, tmp_path / "124M")
    settings, params = download_and_load_gpt2(model_size="124M", models_dir=tmp_path)
    assert params["blocks"][2]["mlp"]["c_fc"]["w"].shape == (48, 192), "linear weights are (in, out), as in the book"
    assert set(params) == {"wte", "wpe", "g", "b", "blocks"}
    model = GPTModel(GPTConfig(settings["n_vocab"], settings["n_ctx"], settings["n_embd"], settings["n_head"],
                               settings["n_layer"], 0.0, True))
    load_weights_into_gpt(model, params)
    assert torch.equal(model.trf_blocks[2].ff.layers[0].weight, torch.tensor(params["blocks"][2]["mlp"]["c_fc"]["w"]).T)
    assert model.out_head.weight is model.tok_emb.weight


def test_the_blogs_text_section_continues_a_text():
    tokenizer, model = gpt2_tokenizer(), GPTModel(GPTConfig(**BASE_CONFIG)).eval()
    token_ids = generate_text_simple(model=model, idx=text_to_token_ids("Every effort moves you", tokenizer),
                                     max_new_tokens=15, context_size=BASE_CONFIG["context_length"])
    assert token_ids.shape == (1, 19)
    assert token_ids_to_text(token_ids, tokenizer).startswith("Every effort moves you")


def test_the_blogs_lora_is_two_options_away():
    torch.manual_seed(0)
    blog = LoRALayer(768, 768, rank=16, alpha=16, scale="alpha", init="blog")
    x = torch.randn(3, 768)
    torch.nn.init.normal_(blog.B)
    assert torch.allclose(blog(x), 16 * (x @ blog.A @ blog.B), rtol=1e-4, atol=1e-3), "the blog multiplies by alpha itself"
    torch.manual_seed(0)
    seed_a = torch.empty(768, 16)
    torch.nn.init.kaiming_uniform_(seed_a, a=5**0.5)
    assert torch.equal(blog.A, seed_a), "the blog draws A by kaiming_uniform_ on (in, r)"


def test_a_model_counts_what_the_blog_prints():
    with torch.device("meta"):
        model = GPTModel(GPTConfig(**BASE_CONFIG | dict(emb_dim=768, n_layers=12, n_heads=12)))
        model.out_head = torch.nn.Linear(768, 2)
    assert count_parameters(model)[0] == 124_441_346
    model.requires_grad_(False)
    assert count_parameters(model)[0] == 0
    replace_linear_with_lora(model, rank=16, alpha=16)
    assert count_parameters(model)[0] == 2_666_528
