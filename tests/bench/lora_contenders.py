"""Ways to fine-tune the same GPT-2 with LoRA on the same messages, for bench_lora.py to time.

Each takes the messages, a DataFrame with the columns Label and Text, and returns the model, the batches of an epoch,
and step(batch), one step of training. The model is GPT-2 124M, untrained, with a head for two classes; in float32 where
the name says nothing else.
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from gpt.batches import BatchesByLength, label_ids
from gpt.classify import classifier_loss, swap_head
from gpt.config import GPT2_SIZES
from gpt.cost.precision import computing, float32_by_onednn, hold
from gpt.lora import lora_layers, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer
from gpt.train import training_step

BATCH_SIZE, RANK, ALPHA, SEED = 8, 16, 16, 123


def ours(messages, dtype=torch.float32, onednn=False):
    """chapters/06_lora_spam.py: LoRA on the blocks, a new head trained plainly, batches of similar length."""
    if onednn:
        float32_by_onednn()
    model = our_gpt2()
    replace_linear_with_lora(model.trf_blocks, RANK, ALPHA)
    hold(model, dtype)
    optimizer = torch.optim.AdamW(trainable(model), lr=5e-4, weight_decay=0.0, fused=True)
    batches = BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, seed=SEED)
    return model, batches, lambda batch: training_step(model, batch, classifier_loss, optimizer)


def our_gpt2():
    model = GPTModel(GPT2_SIZES["gpt2-small (124M)"], torch.Generator().manual_seed(SEED)).requires_grad_(False)
    swap_head(model, 2)
    return model


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def book(messages):
    """The book's own model, LoRA, data set and training step: the code of its chapters 4 and 6 and its appendix E."""
    from llms_from_scratch import appendix_e, ch04, ch06
    model = ch04.GPTModel(dict(vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12,
                               drop_rate=0.0, qkv_bias=True)).requires_grad_(False)
    model.out_head = torch.nn.Linear(768, 2).requires_grad_(False)
    appendix_e.replace_linear_with_lora(model, RANK, ALPHA)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.csv"
        messages.assign(Label=label_ids(messages)).to_csv(file, index=None)
        dataset = ch06.SpamDataset(file, gpt2_tokenizer())

    def step(batch):
        optimizer.zero_grad()
        ch06.calc_loss_batch(*batch, model, "cpu").backward()
        optimizer.step()
    return model, DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True), step


def hugging_face(messages, whole=torch.float32, autocast=torch.float32, onednn=False):
    """transformers and peft at their fastest: fused attention and AdamW, no Trainer, our batches of similar length.

    There is no attention mask: padding stands on the right, where a causal model's last real token never sees it.

    Input: whole, the type of the model, LoRA included; autocast, the type of the products
    """
    import peft
    import transformers
    if onednn:
        float32_by_onednn()
    transformers.logging.set_verbosity_error()    # it would advise a mask
    warnings.simplefilter("ignore", FutureWarning)
    config = transformers.GPT2Config(num_labels=2, pad_token_id=END_OF_TEXT, use_cache=False, attn_implementation="sdpa",
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, fan_in_fan_out=True,
                           target_modules=["c_attn", "c_proj", "c_fc"])
    model = peft.get_peft_model(transformers.GPT2ForSequenceClassification(config), lora).to(whole)
    optimizer = torch.optim.AdamW(trainable(model), lr=5e-4, weight_decay=0.0, fused=True)

    def step(batch):
        ids, _, labels = batch
        optimizer.zero_grad()
        with computing(autocast, "cpu"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
    return model, BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, seed=SEED), step


def by_hand(messages):
    """`ours` with the readable form of a LoRA layer, as it ran until November 2026."""
    model, batches, step = ours(messages)
    for _, layer in lora_layers(model):
        layer.forward = layer.by_hand
    return model, batches, step


PEFT = ["transformers", "peft"], "pip install transformers peft"
CONTENDERS = {    # name: function, what it imports, how to install that
    "ours": (partial(ours, onednn=True), [], ""),
    "ours, products by MKL": (ours, [], ""),
    "ours, LoRA by hand": (by_hand, [], ""),
    "ours, bfloat16": (partial(ours, dtype=torch.bfloat16), [], ""),
    "the book's code": (book, ["llms_from_scratch"], "pip install --no-deps llms-from-scratch"),
    "peft": (hugging_face, *PEFT),
    "peft, oneDNN": (partial(hugging_face, onednn=True), *PEFT),
    "peft, autocast": (partial(hugging_face, autocast=torch.bfloat16), *PEFT),
    "peft, bfloat16": (partial(hugging_face, whole=torch.bfloat16), *PEFT),
}
