"""A GPT-2 written by hand, and LoRA to fine-tune it.

The story is the sixteen files beside this one, in the order in which the chapters read them:

    config          the seven settings, five sizes
    tokenizer       text to ids and back
    attention       heads, the mask, the key-value cache
    model           GPTModel, and how to look at it without changing it
    generate        score, choose, append
    losses          cross-entropy of the next token, of a class; a sampled softmax
    train           one loop, its schedules, its stops
    checkpoint      save a run so that it can be killed at any moment
    download        fetch(name): the table of files, mirrors, checksums
    weights         OpenAI's, Hugging Face's, the book's files and our own -> GPTModel
    spam            the SMS file: read, balance, split
    batches         texts to batches: by length, seeded; windows of a long text
    classify        swap the head, read it at the last token, losses and accuracy, labels for texts
    lora            LoRALayer, LinearWithLoRA, replace, merge
    adapters        what LoRA trained, as one small file
    plots           the figures

Six folders can wait until a chapter leads there:

    storage/        what lies on a disk: files, openai_checkpoint, crc32c
    interop/        to and from other libraries: hugging_face, peft
    evaluate/       what a number is worth: metrics, calibration, significance, baselines, contributions, disguises
    cost/           what it costs: ledger, memory, precision, frozen_cache, fresh_process
    applications/   longer jobs on the same parts: pretrain, text_writer, own_data, switch_adapters
    experiments/    runs that chapters 8 and 10 compare: run_records, mnist, lora_trials, weight_updates, spam_filters,
                    comparison

Imports go down this list of floors, never up, and may skip floors; the two of one floor do not import each other:

    chapters -> experiments -> applications, interop -> evaluate, cost -> the story -> storage

Shape letters, the same wherever a shape is written:
    B  messages (rows) in a batch        T  tokens in a row (the longest row of the batch)
    S  tokens that attention looks at    C  channels, emb_dim
    H  attention heads                   D  channels of one head, D = C / H
    V  vocabulary, vocab_size            F  hidden channels of the feed-forward layer, F = 4 C
    r  rank of a LoRA update             K  classes
    N  all tokens or messages of a set, laid end to end
    M  candidates of a sampled softmax

A line that changes a shape ends with the new one: `# (B, H, T, D)`.
"""
