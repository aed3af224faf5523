"""A GPT-2 written by hand, and LoRA to fine-tune it.

Reading order:
    the model       config, tokenizer, attention, model, generate
    its training    losses, corpus, train, progress, checkpoint, pretrain
    its weights     weights, layouts, assemble, tensor_files, tf_checkpoint, tf_table, crc32c
    the messages    download, assets, http_get, verified, spam, batches, classify, frozen, metrics, baselines
    LoRA            lora, adapters, adapter_file, switch
    its cost        ledger, tape, memory, writer, writer_run, less_memory, own_process
    its insides     images, image_network, tasks, trials, updates, analysis
    your own data   tables, predict_file
    an honest test  conditions, logistic, methods, filter_run, experiment, probabilities, repeated, evaluation
    a model asked   contributions, disguises
    travelling      hugging_face, peft_adapter, peft_layers, peft_layout, peft_head, peft_config
    helpers         files, plots, lora_plots, inside_plots, evaluation_plots

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
