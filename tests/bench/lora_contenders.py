"""Four ways to fine-tune the same GPT-2 with LoRA on the same messages, for bench_lora.py to time.

Each takes the messages, a DataFrame with the columns Label and Text, and returns the model, the batches of an epoch,
and step(batch), one step of training. The model is GPT-2 124M, untrained, in float32, with a head for two classes.
"""

import tempfile
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from gpt.batches import BatchesByLength, SeededLoader, label_ids
from gpt.classify import classifier_loss, swap_head
from gpt.config import GPT2_SIZES
from gpt.lora import replace_linear_with_lora
from gpt.model import GPTModel
from gpt.spam import SpamDataset
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer
from gpt.train import training_step

BATCH_SIZE, RANK, ALPHA, SEED = 8, 16, 16, 123


def ours(messages):
    """chapters/06_lora_spam.py: LoRA on the blocks, a new head trained plainly, batches of similar length."""
    model = our_gpt2(zero=True)
    replace_linear_with_lora(model.trf_blocks, RANK, ALPHA)
    optimizer = torch.optim.AdamW(trainable(model), lr=5e-4, weight_decay=0.0, fused=True)
    batches = BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, seed=SEED)
    return model, batches, lambda batch: training_step(model, batch, classifier_loss, optimizer)


def blog(messages):
    """chapters/06_lora_spam.py --recipe blog: LoRA on everything, all messages padded to the longest of all."""
    model = our_gpt2(zero=False)
    replace_linear_with_lora(model, RANK, ALPHA, scale="alpha", init="blog")
    optimizer = torch.optim.AdamW(trainable(model), lr=5e-5, weight_decay=0.1, fused=True)
    batches = SeededLoader(SpamDataset(messages, gpt2_tokenizer()), BATCH_SIZE, SEED)
    return model, batches, lambda batch: training_step(model, batch, classifier_loss, optimizer)


def our_gpt2(zero):
    model = GPTModel(GPT2_SIZES["gpt2-small (124M)"], torch.Generator().manual_seed(SEED)).requires_grad_(False)
    swap_head(model, 2, zero)
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


def hugging_face(messages):
    """transformers and peft at their fastest: fused attention and AdamW, no Trainer, our batches of similar length.

    There is no attention mask: padding stands on the right, where a causal model's last real token never sees it.
    """
    import peft
    import transformers
    transformers.logging.set_verbosity_error()    # it would advise a mask
    warnings.simplefilter("ignore", FutureWarning)
    config = transformers.GPT2Config(num_labels=2, pad_token_id=END_OF_TEXT, use_cache=False, attn_implementation="sdpa",
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, fan_in_fan_out=True,
                           target_modules=["c_attn", "c_proj", "c_fc"])
    model = peft.get_peft_model(transformers.GPT2ForSequenceClassification(config), lora)
    optimizer = torch.optim.AdamW(trainable(model), lr=5e-4, weight_decay=0.0, fused=True)

    def step(batch):
        ids, _, labels = batch
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return model, BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, seed=SEED), step


CONTENDERS = {    # name: function, what it imports, how to install that
    "ours": (ours, [], ""),
    "ours, --recipe blog": (blog, [], ""),
    "the book's code": (book, ["llms_from_scratch"], "pip install --no-deps llms-from-scratch"),
    "transformers + peft": (hugging_face, ["transformers", "peft"], "pip install transformers peft"),
}
