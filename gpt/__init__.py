"""A GPT-2 written by hand, and LoRA to fine-tune it.

Reading order: config, tokenizer, attention, model, generate, losses, train, checkpoint, tf_checkpoint, weights,
download, spam, classify, metrics, baselines, lora, adapters, plots.

Shape letters, the same in every file:

    B  messages (rows) in a batch        T  tokens in a row (the longest row of the batch)
    C  channels, emb_dim                 H  attention heads        D  channels of one head, D = C / H
    V  vocabulary, vocab_size            F  hidden channels of the feed-forward layer, F = 4 C
    r  rank of a LoRA update             K  classes

A line that changes a shape ends with the new one: `# (B, H, T, D)`.
"""
