"""The seven settings of a GPT-2, and its sizes: OpenAI's four differ in emb_dim, n_heads and n_layers alone.

Read along: chapters/03_gpt_model.py. Source: Radford et al. 2019, table 2, and the released hparams.json files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The settings of a GPT-2. They are frozen, so that a model and its config cannot drift apart.

    Raises: ValueError with the numbers where no such model can exist
    """

    vocab_size: int = 50257      # V: 256 bytes + 50,000 merges + <|endoftext|>
    context_length: int = 1024   # the longest row of tokens that has position embeddings
    emb_dim: int = 768           # C: channels of a token's vector
    n_heads: int = 12            # H: attention heads in each block
    n_layers: int = 12           # transformer blocks
    drop_rate: float = 0.0       # probability; GPT-1 was trained with 0.1, and GPT-2's was never published
    qkv_bias: bool = True        # whether query, key and value have a bias: GPT-2's do

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.emb_dim % self.n_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.emb_dim} channels evenly: "
                             f"emb_dim % n_heads is {self.emb_dim % self.n_heads}, it must be 0")
        if not 0.0 <= self.drop_rate < 1.0:
            raise ValueError(f"drop_rate is a probability below 1, got {self.drop_rate!r}")


GPT2_SIZES = {
    "gpt2-small (124M)": GPTConfig(),
    "gpt2-medium (355M)": GPTConfig(emb_dim=1024, n_heads=16, n_layers=24),
    "gpt2-large (774M)": GPTConfig(emb_dim=1280, n_heads=20, n_layers=36),
    "gpt2-xl (1558M)": GPTConfig(emb_dim=1600, n_heads=25, n_layers=48),
    # Ours, trained by chapter 4 and shipped in data/mini: small enough to fine-tune in a minute on a laptop.
    "mini": GPTConfig(context_length=256, emb_dim=128, n_heads=4, n_layers=4),
}
