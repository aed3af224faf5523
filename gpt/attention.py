"""Attention: every token looks at itself and the tokens before it and gets a weighted average of their values.

Read along: chapters/02_attention.py. Source: Vaswani et al. 2017, section 3.2; Radford et al. 2019.
Shape letters: gpt/__init__.py.
"""

import torch
from torch import nn
from torch.nn import functional as F


SHORT = 256    # queries up to which `causal_attention` may take the form by hand


class KVCache:
    """What one attention layer remembers of the tokens that it has seen: their keys and values.

    A token's key and value do not depend on the tokens after it, so they can be kept while the text grows. The room for
    `size` tokens is taken once, because growing by torch.cat would copy the whole past at every token.

    padding (B,): how many tokens at the left of each row are padding, which no real token may look at; None without.
    """

    def __init__(self, size, padding=None):
        self.size = size
        self.padding = padding
        self.length = 0
        self.keys = self.values = None

    def extend(self, keys, values):
        """Append the keys and values of new tokens, (B, H, T, D) each; return all so far, (B, H, length, D) each.

        The first call takes the room, in the type and on the device of what it is given. The results are views.
        Raises: ValueError with size, length and T where there is no room for them; then nothing is appended
        """
        B, H, T, D = keys.shape
        if self.length + T > self.size:
            raise ValueError(f"the cache has room for {self.size} tokens and holds {self.length}: {T} more do not fit")
        if self.keys is None:
            self.keys = keys.new_empty(B, H, self.size, D)
            self.values = values.new_empty(B, H, self.size, D)
        start, self.length = self.length, self.length + T
        self.keys[:, :, start:self.length] = keys
        self.values[:, :, start:self.length] = values
        return self.keys[:, :, :self.length], self.values[:, :, :self.length]


def causal_attention_by_hand(query, key, value):
    """Softmax(Q K^T / sqrt(D) + mask) V, one line per operation.

    Query t may look at the keys 0 to t. The mask makes the score of every later key -inf, and the softmax, which is
    over the keys, turns -inf into a weight of exactly 0.

    With a cache (chapter 3) there are more keys than queries, and the last query and the last key belong to the same
    token: then query t may look at the keys 0 to S - T + t.

    Input: query (B, H, T, D); key, value (B, H, S, D), S >= T
    Output: (B, H, T, D)
    Source: Vaswani et al. 2017, equation 1; the mask, in words, section 3.2.3
    """
    T, D = query.shape[-2:]
    S = key.shape[-2]
    scores = query @ key.transpose(-2, -1)                                            # (B, H, T, S)
    scores = scores / D**0.5
    future = torch.ones(T, S, dtype=torch.bool, device=query.device).triu(S - T + 1)  # (T, S)
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)               # (B, H, T, S)
    return weights @ value                                                            # (B, H, T, D)


def causal_attention(query, key, value, dropout=0.0, padding=None):
    """The same as `causal_attention_by_hand`, to rounding, by torch's fused kernel, which stores no T x S weights.

    The kernel goes through the keys in blocks and keeps one number per query. (With dropout torch 2.13 has no such
    kernel for a CPU and stores the weights after all.) A text that is read at once has as many queries as keys, and
    then is_causal=True is the mask. That flag aligns the first query with the first key, so it would be wrong with a
    cache: there one new token may look at everything and needs no mask, and several new ones need a mask of their own.

    For few queries the kernel is not always the faster form (`_by_hand_is_faster`).

    Input: query (B, H, T, D); key, value (B, H, S, D), S >= T; dropout: probability, applied to the weights;
        padding (B,), how many keys at the left of each row are padding, which no real token looks at, or None
    Output: (B, H, T, D)
    """
    if not dropout and padding is None and _by_hand_is_faster(query):
        return causal_attention_by_hand(query, key, value)
    T, S = query.shape[-2], key.shape[-2]
    mask = None
    if 1 < T < S or padding is not None:
        mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)    # (T, S), True: may look
    if padding is not None:
        real = torch.arange(S, device=query.device) >= padding[:, None]               # (B, S)
        itself = torch.eye(S, dtype=torch.bool, device=query.device)[S - T:]          # (T, S)
        mask = (mask & real[:, None] | itself)[:, None]    # (B, 1, T, S); a softmax over nothing would be nan
    causal = mask is None and T == S
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def _by_hand_is_faster(query):
    """Whether to compute attention by hand: for at most SHORT queries on a CPU, where oneDNN multiplies.

    torch has two libraries for matrix products on a CPU. It uses oneDNN for bfloat16, and for float32 where
    `gpt.cost.precision.float32_by_onednn` asked for it; otherwise MKL. The fused kernel makes many small products, and
    each costs oneDNN some time to set up. By hand there is one product for all rows and heads, but the weights are
    kept, B H T S numbers, and in bfloat16 the scores are rounded, as the kernel's are not. Milliseconds for forward and
    backward with B = 8, H = 12, D = 64, on 2 cores of an AMD EPYC that multiplies bfloat16 (torch 2.13):

        T                                 20     48    128    256    512 (B = 4)
        bfloat16: kernel                 2.7    5.8   17.5   36.8   59.5
        bfloat16: kernel in float32      0.6    1.8   10.8   36.3   67.9
        bfloat16: by hand                0.7    1.4    6.1   20.2   52.3
        float32, oneDNN: kernel          5.4   10.2   24.5   39.2   52.6
        float32, oneDNN: by hand         0.5    2.5    8.1   36.4  102.8
        float32, MKL: kernel             0.8    1.8   10.2   38.5   65.9
    """
    asked = torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    onednn = query.dtype == torch.bfloat16 or asked and query.dtype == torch.float32
    return query.device.type == "cpu" and query.shape[-2] <= SHORT and onednn


class MultiHeadAttention(nn.Module):
    """H attentions side by side, then one linear layer that mixes their outputs.

    Each head has queries, keys and values of D = C / H channels, each of them made from all channels of x. The outputs
    of the heads stand side by side, as `split_heads` cuts them. In training dropout acts on the attention weights.

    Input: x (B, T, C); cache: a KVCache to read and extend, or None
    Output: (B, T, C)
    Raises: ValueError for heads that cannot share the channels evenly
    Source: Vaswani et al. 2017, section 3.2.2. GPT-2's files hold query, key and value as one matrix c_attn; here
    they are three layers, so that LoRA can be given to each of them alone.
    """

    def __init__(self, d_in, d_out, num_heads, dropout=0.0, qkv_bias=False):
        super().__init__()
        if d_out % num_heads:
            raise ValueError(f"{num_heads} heads cannot share {d_out} channels evenly")
        self.num_heads = num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)    # never called: forward hands its p to causal_attention

    def split_heads(self, x):
        """(B, T, C) -> (B, H, T, D), a view: head h takes channels h * D to (h + 1) * D - 1 of every token."""
        B, T, C = x.shape
        return x.view(B, T, self.num_heads, C // self.num_heads).transpose(1, 2)      # (B, H, T, D)

    def forward(self, x, cache=None):
        query = self.split_heads(self.W_query(x))                                     # (B, H, T, D)
        key = self.split_heads(self.W_key(x))                                         # (B, H, T, D)
        value = self.split_heads(self.W_value(x))                                     # (B, H, T, D)
        padding = None
        if cache is not None:
            key, value = cache.extend(key, value)                                     # (B, H, S, D)
            padding = cache.padding
        dropout = self.dropout.p if self.training else 0.0    # model.eval() does not reach a function
        context = causal_attention(query, key, value, dropout, padding)               # (B, H, T, D)
        return self.out_proj(context.transpose(1, 2).flatten(2))                      # (B, T, C)
