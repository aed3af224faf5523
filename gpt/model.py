"""GPT-2 reads token ids and gives a score, called a logit, to every possible next token.

Read along: chapters/03_gpt_model.py. Source: Radford et al. 2019, section 2.3; Radford et al. 2018.
Names are those of the book's GPTModel; `gpt.weights.load_book` reads its files. Shape letters: gpt/__init__.py.
"""

import math
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from gpt.attention import KVCache, MultiHeadAttention


class LayerNorm(nn.Module):
    """Give each token's channels mean 0 and variance 1, then let two learnt vectors scale and shift them.

    y = scale * (x - mean) / sqrt(variance + eps) + shift. The variance divides by C, not C - 1, and eps = 1e-5 stands
    inside the root, so that channels which are all equal give 0 and not 0 / 0.

    Input, output: (..., C)
    Source: Ba et al. 2016; F.layer_norm is the same in one fused kernel
    """

    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELU(nn.Module):
    """A smooth ReLU, in the tanh form that GPT-2 was trained with.

    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); it differs from the exact x Phi(x) by up to 5e-4.

    Input, output: any shape
    Source: Hendrycks and Gimpel 2016, section 2
    """

    def forward(self, x):
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, for each token by itself: C -> F = 4 C -> C.

    Input, output: (B, T, C)
    """

    def __init__(self, emb_dim):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(emb_dim, 4 * emb_dim), GELU(), nn.Linear(4 * emb_dim, emb_dim))

    def forward(self, x):
        return self.layers(x)


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads a normalised copy of x and adds its output, after dropout, to x.

    Adding to x instead of replacing it is called a residual connection, and the x that runs through all blocks is the
    residual stream. Attention reads it through norm1. Then feed-forward reads the sum through norm2.

    Input: x (B, T, C); cache: this block's KVCache, or None
    Output: (B, T, C)
    """

    def __init__(self, config):
        super().__init__()
        self.att = MultiHeadAttention(config.emb_dim, config.emb_dim, config.n_heads, config.drop_rate, config.qkv_bias)
        self.ff = FeedForward(config.emb_dim)
        self.norm1 = LayerNorm(config.emb_dim)
        self.norm2 = LayerNorm(config.emb_dim)
        self.drop_shortcut = nn.Dropout(config.drop_rate)

    def forward(self, x, cache=None):
        x = x + self.drop_shortcut(self.att(self.norm1(x), cache))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """GPT-2. `init_weights` draws the weights of a fresh one from `generator` (torch's global one where it is None).

    Input: token_ids (B, T) integers, 1 <= T <= context_length
    Output: logits (B, T, V); logits[b, t] scores what comes after token t (after a swapped head: (B, T, K))
    Raises: ValueError for a row that is too long or empty and for a token outside the vocabulary
    """

    def __init__(self, config, generator=None):
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):    # the layers' own first weights are not kept
            self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)
            self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
            self.drop_emb = nn.Dropout(config.drop_rate)
            self.trf_blocks = nn.Sequential(*(TransformerBlock(config) for _ in range(config.n_layers)))
            self.final_norm = LayerNorm(config.emb_dim)
            self.out_head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
            self.out_head.weight = self.tok_emb.weight    # tied: one matrix reads tokens and scores them
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator=None):
        """Draw fresh weights in place from N(0, std 0.02), biases 0; LayerNorm's scale and shift are left as they are.

        Each block adds to the residual stream twice. The weights that make these two outputs are divided by
        sqrt(2 n_layers), so that all blocks together add the same variance whatever their number.
        Source: Radford et al. 2019, section 2.3 (the division); OpenAI's code (0.02, but 0.01 for positions, undivided)
        """
        residual = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith(("out_proj.weight", "layers.2.weight")):
                parameter.normal_(0.0, residual, generator=generator)
            elif name.endswith("weight"):             # not LayerNorm's: they are called scale and shift
                parameter.normal_(0.0, 0.02, generator=generator)

    def new_cache(self, padding=None):
        """One empty KVCache per block, each with room for context_length tokens. padding (B,): see KVCache."""
        return [KVCache(self.config.context_length, padding) for _ in self.trf_blocks]

    def embed(self, token_ids, start=0, padding=None):
        """Token vector plus position vector, then dropout: (B, T) integers -> (B, T, C).

        `start` is the first token's position; the first row of pos_emb is that of position 0. Where a row begins with
        padding (B,), as many tokens as `padding` says, its first real token has position 0.
        Raises: ValueError where there is no token; for positions beyond context_length, with both numbers; on a CPU for
        ids outside 0 to vocab_size - 1, with the lowest id, the highest and the highest that is allowed
        """
        T = token_ids.shape[-1]
        config = self.config
        if T < 1 or start + T > config.context_length:
            raise ValueError(f"{start + T} tokens do not fit: this model has positions for 1 to "
                             f"{config.context_length} (context_length); cut the text or generate in a window")
        positions = torch.arange(start, start + T, device=token_ids.device)           # (T,)
        if padding is not None:
            positions = (positions - padding[:, None]).clamp(min=0)                   # (B, T)
        try:
            return self.drop_emb(self.tok_emb(token_ids) + self.pos_emb(positions))   # (B, T, C)
        except IndexError:    # only a CPU raises it, because a GPU would have to be waited for
            raise ValueError(f"token ids lie between {int(token_ids.min())} and {int(token_ids.max())}, the vocabulary "
                             f"has 0 to {config.vocab_size - 1}: is this text from another tokenizer?") from None

    def hidden(self, token_ids, cache=None):
        """All of the model but its head: what it knows at each position, (B, T) -> (B, T, C).

        With a cache (`new_cache`), token_ids are only the tokens that come after those already in it.
        Raises: what `embed` refuses
        """
        start, padding = (cache[0].length, cache[0].padding) if cache else (0, None)
        x = self.embed(token_ids, start, padding)                                     # (B, T, C)
        for i, block in enumerate(self.trf_blocks):
            x = block(x, cache[i] if cache else None)
        return self.final_norm(x)

    def forward(self, token_ids):
        return self.out_head(self.hidden(token_ids))                                  # (B, T, V)


def unwrapped(model):
    """The model inside the wrappers of torch.compile and DistributedDataParallel, which rename its parameters."""
    while (inner := getattr(model, "_orig_mod", getattr(model, "module", None))) is not None:
        model = inner
    return model


def scores_tokens(model):
    """Whether the head has an output for each token, as a language model's has, and not one for each of K classes."""
    head = getattr(model.out_head, "linear", model.out_head)    # without the LoRA that it may wear
    return getattr(head, "out_features", model.config.vocab_size) == model.config.vocab_size


def refuse_classifier(model):
    """Raise ValueError where the head scores classes: it can neither write a text nor score one."""
    if not scores_tokens(model):
        raise ValueError("this model is a classifier: its head scores classes, not tokens. Use gpt.classify.classify, "
                         "or call gpt.adapters.remove_adapter to have the language model back")


@contextmanager
def evaluating(model):
    """Look at a model without dropout and without gradients, and leave no trace.

    Afterwards, also after an error, torch's random state and each module's mode (`in_eval_mode`) are what they were
    before. The random state matters because a DataLoader draws a number whenever it starts, so that looking at the
    validation loss would change the dropout of the training steps that follow.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with in_eval_mode(model), torch.random.fork_rng(devices), torch.no_grad():
        yield


@contextmanager
def in_eval_mode(model):
    """Switch dropout off; afterwards, also after an error, each module's mode is what it was before."""
    modes = [(module, module.training) for module in model.modules()]    # some may be in eval mode while others train
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
