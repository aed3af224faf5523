"""The exercises: functions of gpt/ whose bodies tests/exercises.py takes out. E2.1 is the first of chapter 2; the E
keeps it apart from section 2.1.

What to write stands in the function's docstring (a `forward` has its class's), what it must do in the tests that
bear its id: `python -m pytest --exercise E2.1`. No hint quotes an answer.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Exercise:
    """One exercise. points: 1 to 5; difficulty: easy, medium or hard; hints: each leads one step further."""

    id: str
    file: str
    function: str      # as Python qualifies it: "MultiHeadAttention.split_heads"
    task: str
    points: int
    difficulty: str
    hints: tuple[str, ...]


CHAPTERS_1_TO_4 = (
    Exercise(
        "E1.1", "gpt/tokenizer.py", "byte_alphabet",
        "Give each of the 256 bytes the sign that stands for it in vocab.bpe, in GPT-2's order.",
        2, "medium", (
            "Make two lists of numbers first: the bytes that are written as themselves, in rising order, and the "
            "68 others, in rising order.",
            "A dict keeps the order in which its keys were put in. The keys are signs, the values are numbers: "
            "chr() makes a sign of a number.",
            "The n-th of the 68 others, counted from 0, is written as sign number 256 + n: n is its place in the "
            "list, not the byte. So byte 0 is sign 256, and the space, byte 32, is sign 288.",
        )),
    Exercise(
        "E1.2", "gpt/tokenizer.py", "read_ranks",
        "Read the text of vocab.bpe: the id of each of the 50,256 tokens, by its bytes.",
        2, "easy", (
            "The first 256 ids are in byte_alphabet's order, and that is not the order of the bytes: id 0 is the "
            "byte of '!', 33. A key of the result is a bytes object; bytes([33]) is b'!'.",
            "Then comes one token for each line, without the first line. Its two parts have one space between "
            "them, which belongs to neither; a space of the text is the sign Ġ.",
            "Look up the byte of every sign of both parts. The new token's id is how many tokens there are so far.",
        )),
    Exercise(
        "E1.3", "gpt/batches.py", "TextWindows.__iter__",
        "Yield this epoch's batches: for each list of beginnings, the windows of T + 1 tokens that begin there.",
        2, "medium", (
            "self.rows has a list of beginnings for each batch; self.window is T. A window is one token longer "
            "than what is read of it, because the last token is only predicted.",
            "Beginnings as a column, (B, 1), plus the numbers 0 to T as a row, (T + 1,), broadcast to the places "
            "of all tokens of the batch, (B, T + 1).",
            "A tensor can be indexed by a tensor of places: the result has the places' shape. The tokens may be "
            "int32; yield int64, which an embedding and a loss both take.",
        )),
    Exercise(
        "E1.4", "gpt/model.py", "GPTModel.embed",
        "Turn token ids into vectors: token embedding plus position embedding, or an error that says what is wrong.",
        2, "easy", (
            "Refuse first: no token at all, or positions beyond context_length (count the `start` tokens before "
            "them), then ids below 0 or from vocab_size on. An f-string puts both numbers into the message.",
            "The first token stands at position `start`, which is 0 without a cache: T positions in all. Make them "
            "where the token ids are, on their device.",
            "Look both kinds up, (B, T, C) and (T, C); the sum broadcasts over B. The dropout acts on the sum.",
        )),

    Exercise(
        "E2.1", "gpt/attention.py", "causal_attention_by_hand",
        "Compute softmax(Q K^T / sqrt(D) + mask) V, one line per operation.",
        4, "medium", (
            "Every query times every key: a matrix product of the last two axes gives scores (B, H, T, S). Which "
            "two axes of the keys have to change places? Then divide; D is the size of one head.",
            "Query t stands at position S - T + t and may look at keys 0 to S - T + t: with T = S these are 0 to "
            "t. Make a (T, S) tensor of booleans that is True where a key lies in the future; triu takes a number "
            "that shifts the diagonal.",
            "Mask the scores before the softmax, with -inf: a weight that is zeroed afterwards is missing in the "
            "sum. The weights of one query sum to 1, so the softmax is over the keys.",
        )),
    Exercise(
        "E2.2", "gpt/attention.py", "MultiHeadAttention.split_heads",
        "Cut the channels into heads: (B, T, C) -> (B, H, T, D).",
        2, "medium", (
            "A token's C channels stand side by side in memory, head 0's D first. So the last axis can be seen as "
            "two, (H, D), without moving a number.",
            "Then H has to come before T. A view of shape (B, H, T, D) made in one step has the right shape and "
            "mixes tokens with channels: change the places of two axes instead.",
        )),
    Exercise(
        "E2.3", "gpt/attention.py", "MultiHeadAttention.forward",
        "Make queries, keys and values, attend in all heads at once, put the heads side by side, mix them.",
        4, "hard", (
            "Write it first for cache=None: three linear layers, three times split_heads, "
            "causal_attention, and the way back from (B, H, T, D) to (B, T, C): split_heads, backwards. out_proj "
            "is last.",
            "With a cache the new keys and values are put behind those that it holds, and attention looks at all "
            "that it gives back. Queries are never kept: nobody asks for the past again.",
            "Dropout: causal_attention wants a probability, which is 0 unless self.training.",
        )),

    Exercise(
        "E3.1", "gpt/model.py", "LayerNorm.forward",
        "Give each token's channels mean 0 and variance 1, then scale and shift them.",
        2, "easy", (
            "Mean and variance are taken over the channels, the last axis, of each token by itself. keepdim=True "
            "leaves an axis of size 1, so that what follows broadcasts.",
            "torch's var divides by C - 1 unless it is told otherwise. Where does eps stand in the formula?",
        )),
    Exercise(
        "E3.2", "gpt/model.py", "GELU.forward",
        "Compute GELU in the tanh form that GPT-2 was trained with.",
        1, "easy", (
            "The formula stands in the class's docstring, and it acts on each number by itself.",
            "torch has GELU, too, in both forms: which one does it take when it is not told?",
        )),
    Exercise(
        "E3.3", "gpt/model.py", "TransformerBlock.forward",
        "Add attention's output to the residual stream, then feed-forward's; each reads a normalised copy.",
        3, "medium", (
            "There are two sums, and the second starts from the first's result. What is normalised is only what a "
            "sublayer reads: on the residual stream itself stands no norm.",
            "Each output goes through drop_shortcut before it is added; the residual stream does not.",
        )),
    Exercise(
        "E3.4", "gpt/generate.py", "generate_text_simple",
        "Append the most probable next token, max_new_tokens times, reading the whole window at each step.",
        2, "easy", (
            "The model scores what comes after every position; a text goes on after its last one. So of the logits "
            "(B, T, V) only (B, V) is needed.",
            "Read no more than the last context_size tokens, but append to the whole text.",
            "The new tokens need an axis of size 1, (B, 1), to be joined to (B, T); no softmax is needed, because "
            "it does not change which score is the highest.",
        )),
    Exercise(
        "E3.5", "gpt/attention.py", "KVCache.extend",
        "Append the keys and values of new tokens to those that the cache holds, and return all so far.",
        3, "medium", (
            "Check first whether the new tokens fit, so that an error leaves the cache as it was: there is room "
            "for self.size, and self.length are there. The message tells size, length and how many more were to "
            "come.",
            "The first call finds self.keys = None: take room for all `size` tokens now, (B, H, size, D), of the "
            "keys' type and on their device. Later calls must not move what is there: no torch.cat.",
            "New tokens go to the places from the old length to the new one on the third axis. What is returned "
            "ends at the new length, not at the end of the room; slices are views, and cost nothing.",
        )),
    Exercise(
        "E3.6", "gpt/generate.py", "generate",
        "Continue each row of a batch with a KV cache, past the window too, until max_new_tokens or the stop token.",
        5, "hard", (
            "Write it first without cache and stop: model.hidden(ids) is (B, T, C), the head runs on its last "
            "position alone, `choose` makes (B, 1) of that, torch.cat appends it. Begin with _check_settings and "
            "_one_width, and go to the device of the model's weights.",
            "model.new_cache() remembers what was read: give hidden(ids, cache) the whole prompt once (its last "
            "context_length tokens), then only the token just chosen. When cache[0].length and the unread tokens "
            "would exceed context_length, read the last context_length tokens into an empty cache, at every step.",
            "Prompts of unequal length: new_cache(padding) does the rest. When tokens are cut off on the left, how "
            "much padding is still there? Return each row without its own.",
            "A row that has produced `stop` gets `stop` from then on, whatever was chosen for it; a boolean (B, 1) "
            "remembers which rows have. Compare with None: 0 is a token too. A stop token in the prompt does not "
            "count. Dropout has no part in the choice: in_eval_mode switches it off around the loop.",
        )),
    Exercise(
        "E3.7", "gpt/lora.py", "count_parameters",
        "Count the numbers that train and all numbers of a model.",
        1, "easy", (
            "model.parameters() yields each tensor once, even where two modules share it. A state_dict lists it "
            "twice.",
            "numel() is how many numbers a tensor has; requires_grad says whether it trains. Mind the order of the "
            "pair.",
        )),

    Exercise(
        "E4.1", "gpt/losses.py", "cross_entropy_by_hand",
        "Compute the mean of -log softmax(logits)[target], without overflow.",
        2, "easy", (
            "log(softmax(x)[i]) is x[i] minus the logarithm of the sum of all exp(x). torch has the second part as "
            "one function that does not overflow; taking exp and then log would.",
            "Do it for all tokens and all V scores, (N, V); then gather takes from each row the one of its target. "
            "It wants an index with as many axes as the scores.",
        )),
    Exercise(
        "E4.2", "gpt/train.py", "training_step",
        "One step of training: loss, gradients, clipping, the optimizer's step; no step if a gradient is not finite.",
        3, "medium", (
            "The order: loss, clear the old gradients, backward, scale back, clip, step. Why may the clearing not "
            "stand between backward and step?",
            "A torch.amp.GradScaler has four methods for it: scale(loss), unscale_(optimizer), step(optimizer), which "
            "takes no step if a gradient is not finite, and update(). torch's notes on automatic mixed precision show "
            "them in their order.",
            "Clipping is of all gradients together: torch.nn.utils has a function that takes a list of parameters. "
            "Which ones train stands in optimizer.param_groups.",
            "Returned is the loss from before the step, without the graph behind it: a scalar tensor has detach().",
        )),
    Exercise(
        "E4.3", "gpt/train.py", "warmup_then_cosine",
        "Return a schedule: a function from the number of steps done to the factor of the learning rate.",
        2, "easy", (
            "The answer is a function inside a function: the inner one takes `step` and still sees warmup, total "
            "and last.",
            "There are two cases, and the docstring has a line for each. f is how much of the fall is over, 0 to "
            "1: it must not grow beyond 1, or the cosine would rise again.",
        )),
    Exercise(
        "E4.4", "gpt/generate.py", "choose",
        "Choose one token per row: greedy at temperature 0, otherwise drawn after temperature, top-k and top-p.",
        4, "hard", (
            "Temperature 0 first: nothing is divided or drawn. Otherwise divide the scores, and only then softmax.",
            "Sort the scores of each row, the highest first, and keep the order. Then the top k are the first k, "
            "exactly k even where scores are equal. What is cut off gets -inf before the softmax, so that the rest "
            "sums to 1. Work on the sorted copy: the caller's logits stay as they are.",
            "For top-p a cumulative sum tells how much stands up to a token. A token is kept as long as those "
            "before it, without itself, have not reached p: so at least one is kept.",
            "torch.multinomial draws a place in the sorted order, and takes weights that do not sum to 1; give it "
            "the generator. The order tells which token stands at that place.",
        )),
    Exercise(
        "E4.5", "gpt/storage/openai_checkpoint.py", "varint",
        "Read a whole number of 7 bits a byte from bytes that nobody vouches for.",
        2, "medium", (
            "Of each byte the lower 7 bits are digits: the first byte's count as they are, the next one's 2^7 "
            "times, then 2^14 times. The top bit says whether to go on.",
            "Take bytes with checked_slice(), one at a time: where the data end too soon, it raises the error.",
            "Two things are damage: a top bit that is still set in the tenth byte, and a number of several bytes "
            "whose last is 0. b'\\x00' alone is the number 0.",
        )),
    Exercise(
        "E4.6", "gpt/weights.py", "from_openai",
        "Rename OpenAI's tensors, turn linear weights round, and cut c_attn into query, key and value.",
        3, "hard", (
            "our_name gives the name here; `att` or `ff` in it, and `weight` at its end, mean a linear layer: (in, "
            "out) there, (out, in) here. OpenAI's have an axis of size 1 in front, Hugging Face's have not. "
            "Embeddings stay as they are.",
            "c_attn holds query, key and value side by side on its `out` axis, in this order, weight and bias "
            "alike. After turning round, `out` is the first axis of both, so one call cuts both into three.",
            "Only take views: [0], t() and tensor_split copy nothing. Before putting a name into the result, look "
            "whether it is there already.",
        )),
    Exercise(
        "E4.7", "gpt/losses.py", "next_token_loss",
        "Average the cross-entropy of the next tokens, with the logits of only `chunk` tokens in memory at a time.",
        3, "hard", (
            "Write it with all logits first: read all tokens but the last of each row, predict all but the first. "
            "model.hidden is the model without its head; lay the rows end to end, (N, C) and (N,).",
            "split both into chunks of one length (the last may be shorter) and add up the sums that _chunk_loss "
            "returns. Divide once, by all tokens: a mean of means would count the short chunk's tokens for more.",
            "That alone still keeps each chunk's logits for the backward pass. checkpoint(function, *arguments, "
            "use_reentrant=False) calls the function, forgets what it made and calls it again when the gradient is "
            "needed.",
        )),
)

CHAPTERS_5_AND_6 = (
    Exercise(
        "E5.1", "gpt/spam.py", "read_sms",
        "Read the SMS file line by line, quotation marks as text; say file and line of whatever is wrong.",
        3, "medium", (
            "decode_utf8 reads the file and takes the byte-order mark off. Cut its text at line feeds only, and mind "
            "that the last line ends in one as well: nothing follows it.",
            "A label ends at the first tab and the message goes on to the end of the line, further tabs included: "
            "which method of str cuts in three at the first occurrence and still tells you when there was none?",
            "All lines are looked at in both ways of reading; only then does blog=True hand the path to pandas, "
            "which takes quotation marks its own way.",
        )),
    Exercise(
        "E5.2", "gpt/spam.py", "create_balanced_dataset",
        "Keep every spam row and draw as many ham rows.",
        1, "easy", (
            "Compare the Label column with each word: a column of booleans picks rows of a DataFrame.",
            "Look at both numbers before you draw. sample takes how many rows, and a random_state that makes the "
            "draw the same each time; without a word to the contrary it draws no row twice.",
            "pd.concat puts tables on top of each other and keeps the rows' numbers.",
        )),
    Exercise(
        "E5.3", "gpt/spam.py", "split_without_leaks",
        "Cut the table in three so that messages with equal letters stay together and every split has its share of "
        "spam.",
        5, "hard", (
            "First the groups: which row numbers have the same normalised text? Look at a split's members by "
            "position, for the table's own row numbers may repeat.",
            "A list of rows for each split and an array of three rooms will do. For each label add to the room what "
            "the split should get of it, then give away that label's groups, the largest first: a large one that "
            "comes late finds no room.",
            "Chances in proportion to room: set the room of splits that are too small for the group to 0 and divide "
            "by the sum. Where all three are too small the sum is 0: then the roomiest takes it, and its room may "
            "become negative.",
            "Shuffle at the very end, and by the same generator; a split may be empty.",
        )),
    Exercise(
        "E5.4", "gpt/batches.py", "pad",
        "Put lists of different lengths into one tensor, with padding on the right.",
        1, "easy", (
            "Note the lengths of the lists before anything is padded: afterwards nobody can tell a message's own "
            "<|endoftext|> from padding.",
            "Make the tensor full of padding first, as wide as asked or as the longest row; torch.full makes whole "
            "numbers out of a whole number.",
            "Then overwrite the beginning of each row.",
        )),
    Exercise(
        "E5.5", "gpt/batches.py", "BatchesByLength.set_epoch",
        "Fix an epoch's batches: similar lengths together, and another order in every epoch.",
        3, "medium", (
            "Begin with seed=None: the places that would sort the lengths (argsort has a kind that leaves equals in "
            "their order), cut into len(self) parts of almost equal size. NumPy has a function that cuts an array "
            "when it does not divide evenly.",
            "With a seed there is a generator for this epoch alone. Multiply each length by a factor of its own and "
            "sort by the product: the length itself stays what it was.",
            "In which order do the batches come now, short ones first? Shuffle the list of batches, not what is in "
            "them.",
        )),
    Exercise(
        "E5.6", "gpt/classify.py", "swap_head",
        "Replace the language model's head by one for K classes.",
        2, "easy", (
            "The number of channels, the type and the device can all be read off the token embedding's weight.",
            "Replace the module; do not write into the old head, whose weight the token embedding uses.",
            "A bias starts somewhere too. And a new module is in training mode, whatever the model is in.",
        )),
    Exercise(
        "E5.7", "gpt/classify.py", "class_logits",
        "Score the classes at the last real token of each message.",
        3, "medium", (
            "Positions count from 0: where is the last of n tokens? Without lengths it is the same place in each "
            "row, as a tensor (B,) on the ids' device.",
            "hidden_at gives what the model knows at one position of each row, (B, C). model.hidden, (B, T, C), "
            "indexed by the rows' numbers and these positions gives the same, for more work. The head comes last.",
        )),
    Exercise(
        "E5.8", "gpt/classify.py", "calc_accuracy_loader",
        "Compute the share of messages that a model classifies rightly.",
        1, "easy", (
            "predict_logits has done all the looking: labels (N,) and scores (N, K) of all the messages asked for.",
            "The predicted class is the place of the highest score in each row. Comparing gives booleans: turn them "
            "into numbers before you average, and the average into a plain number.",
        )),
    Exercise(
        "E5.9", "gpt/evaluate/metrics.py", "wilson_interval",
        "Compute Wilson's interval for a share of right answers.",
        1, "easy", (
            "The two bounds differ in one sign: compute what stands before it and what stands behind it, once each.",
            "z^2/2n means z^2 / (2 n). All of the numerator is divided by 1 + z^2 / n, the root too.",
            "With 0 or all right a bound is exactly 0 or 1, and floating point may miss that by a little: hold it.",
        )),
    Exercise(
        "E5.10", "gpt/evaluate/baselines.py", "NaiveBayes.fit",
        "Count words class by class, smooth the counts, keep their logarithms.",
        3, "medium", (
            "Make a Counter of words for each class and a Counter of messages by class. zip has an argument that "
            "makes lists of different lengths an error.",
            "Two denominators, not to be confused: for P(k) the number of messages, for P(w | k) the number of words "
            "of class k, plus V, where V counts each different word of all classes once.",
            "Take every word of the vocabulary for every class, also those that the class has not shown: a Counter "
            "answers 0, and smoothing makes 1 of it.",
        )),
    Exercise(
        "E5.11", "gpt/model.py", "evaluating",
        "Write the context in which a model is looked at: no dropout, no gradients, and nothing changed afterwards.",
        3, "medium", (
            "A context made with contextmanager is a generator: what comes before yield happens on the way in, what "
            "comes behind it on the way out. On an error the way out is only taken where a finally stands.",
            "in_eval_mode, which stands beside it, looks after the modes: model.train() at the end would put every "
            "module into training, also one that was not.",
            "torch.random has a context that puts the random state back at its end, and torch one without gradients; "
            "one `with` can hold all of them. Name the CUDA device only where there is one.",
        )),

    Exercise(
        "E6.1", "gpt/lora.py", "LoRALayer.__init__",
        "Make A and B as LoRA starts: A drawn with the right bound, B zero; refuse settings that make no sense.",
        3, "medium", (
            "Check rank, scale and init before anything is computed from them. SCALES holds functions: look the "
            "right one up and call it with alpha and the rank.",
            "The bound is one over the square root of how many numbers each output of A sums: which of A's two sizes "
            "is that? (The blog takes the other one.)",
            "uniform_ fills a tensor in place and takes the generator. What is to be trained must be an "
            "nn.Parameter, A as well as B.",
        )),
    Exercise(
        "E6.2", "gpt/lora.py", "LoRALayer.forward",
        "Compute the correction scale * (x A) B.",
        1, "easy", (
            "`@` multiplies the last axis of x, whatever stands before it. A is (in, r): nothing has to be "
            "transposed here.",
            "self.scale is a finished number. Dropout acts on x alone, and is nothing in eval mode.",
            "The same product has three places where the scale could stand; the thin tensor (..., r) is the "
            "cheapest.",
        )),
    Exercise(
        "E6.3", "gpt/lora.py", "LinearWithLoRA.forward",
        "Add the correction to what the linear layer says, unless it is merged into the weight.",
        1, "easy", (
            "self.original tells whether the layer is merged: it is None while it is not.",
            "While merged the weight holds the sum: the correction would count twice. And A and B would get no "
            "gradient: when does that matter? self.training and torch.is_grad_enabled() tell.",
        )),
    Exercise(
        "E6.4", "gpt/lora.py", "replace_linear_with_lora",
        "Freeze a module and put a LoRA around each of its linear layers, wherever they lie.",
        5, "hard", (
            "Three steps in this order: find the layers (_linears_to_replace: name -> layer), make all the LoRAs, and "
            "only then change the model. An error in the first two leaves it as it was.",
            "When is everything frozen: before or after the LoRAs are in the model? Parameters of a new module train "
            "unless somebody freezes them.",
            "model.set_submodule puts another module in the place that a name such as 0.att.W_query says. The options "
            "after the star go on to each LinearWithLoRA, the same generator for all.",
            "share_a: the first layer of a parent brings the A, the other two get the same Parameter, not a copy: "
            "then a gradient of one is a gradient of all.",
        )),
    Exercise(
        "E6.5", "gpt/lora.py", "LinearWithLoRA.merge",
        "Add the correction to the weight, so that the layer is a plain one; keep what was there.",
        2, "medium", (
            "Refuse first: a second merge would take the merged weight for the original.",
            "A B is (in, out), and nn.Linear keeps its weight as (out, in). The scale belongs to the update; the "
            "bias does not change.",
            "Put a new tensor into weight.data instead of adding in place: so the old tensor itself can be kept, and "
            "the Parameter stays the one that an optimizer may know.",
        )),
    Exercise(
        "E6.6", "gpt/lora.py", "LinearWithLoRA.unmerge",
        "Take a merged correction out again, bit for bit.",
        1, "easy", (
            "In floating point (W + U) - U is often not W. What did merge keep?",
            "Two things change: the weight's data, and what says that the layer is merged.",
        )),
    Exercise(
        "E6.7", "gpt/adapters.py", "save_adapter",
        "Write LoRA tensors, head and metadata into an adapter file; refuse what the file would lose.",
        4, "hard", (
            "Collect two dicts. layers: for each of lora_layers(model) its rank, its alpha and the name of its "
            "scale. tensors: by full name, such as trf_blocks.0.att.W_query.lora.A.",
            "Merged or not, the head must be as it was before: _plain_tensors gives it under the names that it has "
            "without LoRA. (A head that is tied has no tensor of its own there.)",
            "Is a layer's A the very tensor of an earlier layer? Remember who had it first, by id().",
            "What trains and is neither of a LoRA nor of the head is lost: trained_besides has its names. Only after "
            "this check and _check_tensors may a file appear.",
        )),
    Exercise(
        "E6.8", "gpt/adapters.py", "load_adapter",
        "Put an adapter file onto a model, after everything in it has been checked.",
        5, "hard", (
            "All that may refuse comes first: read, compare fingerprints, _check_tensors. Then remove_adapter makes "
            "it the base model again, and everything is frozen.",
            "The new head comes before the LoRAs, because one of them may go around it. A layer's parent gets a "
            "LinearWithLoRA under the layer's old name, with rank, alpha and scale of the file.",
            "Tie the shared A's before their numbers come: assign the Parameter. A copy of the file's tensor put into "
            "parameter.data leaves the Parameter the same one. The head's own tensors are called out_head.weight and "
            "out_head.bias in the file, even where a LoRA is around it: plain_head.",
            "At the end the head trains only if it is one of classes and has no LoRA.",
        )),
    Exercise(
        "E6.9", "gpt/lora.py", "LoRAFunction.backward",
        "Give back the gradients of a linear layer with a LoRA, from that of its output: dx, dA, dB and the others.",
        4, "hard", (
            "forward has saved the tensors and what is not a tensor: see its last lines. The class's docstring has the "
            "three formulas, for rows (N, ...): _rows turns (..., n) into (N, n). What all of them share, "
            "scale (g B^T), is thin, so compute it once. And `thin` holds its scale already.",
            "ctx.needs_input_grad says for which of forward's seven arguments a gradient is wanted: seven results, in "
            "the same order, None for the others and for the scale.",
            "Where dropped is given, the correction has read that tensor and not x: then x gets g W alone, and dropped "
            "gets the rest. The linear layer's own: dW = g^T x, and for the bias the sum of g over the rows.",
        )),
)

CHAPTERS_7_TO_9 = (
    Exercise(
        "E7.1", "gpt/losses.py", "hidden_and_targets",
        "Find, in a padded batch of texts, the real tokens to predict and what the model knows before each.",
        2, "medium", (
            "Read all tokens but the last of each row, predict all but the first: model.hidden gives (B, T, C), the "
            "targets are (B, T).",
            "Of a row of 4 real tokens 3 are to be predicted, at positions 0, 1 and 2. Compare the positions as a "
            "row, (T,), with the lengths as a column, (B, 1): a table of booleans, (B, T).",
            "A table of booleans as an index picks, row after row, what is True there: (B, T, C) becomes (N, C).",
        )),
    Exercise(
        "E7.2", "gpt/cost/ledger.py", "ledger_changes",
        "Compare two ledgers of one model: what appeared, what disappeared, and what is different in the rest.",
        2, "medium", (
            "Make a dict from name to row of each ledger. The names must be the same on both sides where the tensor "
            "is: a layer inside a LoRA has one word more in its name.",
            "First what is in the old dict alone. Then go through the new one: what the old one lacks has appeared, "
            "and of the others _differences gives a list of words.",
            "No word, no Change; several words are joined by a comma and a space.",
        )),
    Exercise(
        "E7.3", "gpt/train.py", "parameter_groups",
        "Sort what trains into two groups for AdamW: what is decayed and what is not.",
        1, "easy", (
            "named_parameters gives names and parameters, tied ones once. What does not train belongs to no group.",
            "Biases, scales and shifts have one axis; all matrices have two. A and B are known by their names.",
            "A group is a dict with the keys params and weight_decay; an empty list of params is a group, too.",
        )),
    Exercise(
        "E7.4", "gpt/train.py", "warmup_then_linear",
        "Return a schedule that rises to 1 in equal steps and falls to 0 in a straight line.",
        1, "easy", (
            "The answer is a function inside a function: the inner one takes `step` and still sees warmup and total.",
            "There are two cases, and the docstring has a line for each. How much of the fall is over never exceeds "
            "1: below 0 the optimizer would go uphill.",
        )),
    Exercise(
        "E7.5", "gpt/applications/text_writer.py", "step_in_parts",
        "Take one optimizer step on a batch that is computed part by part, as if it had been computed at once.",
        4, "hard", (
            "A batch is one tensor or a tuple of them: make it a tuple of tensors, cut each by rows with chunk, and "
            "zip puts together what belongs to one part. What loss_fn gets has the form that the batch had.",
            "backward adds to what is in .grad. So clear it once, before the first part, and step once, after the "
            "last.",
            "All sizes have to be known before the first backward: a part's loss times its share of the sum is what "
            "it contributes, to the loss that is returned as well as to the gradient.",
            "Look at the loss of each part before its backward pass. Clipping shortens the whole batch's gradient.",
        )),
    Exercise(
        "E7.6", "gpt/cost/memory.py", "Tape.linear",
        "Count what a linear layer, with or without a LoRA, keeps for the backward pass.",
        2, "medium", (
            "Of y = x W^T the gradient of W is made of x, that of x is made of W alone, and W is there anyway.",
            "LinearWithLoRA has the layers `linear` and `lora`; a plain layer has neither, and getattr takes a value "
            "for that case. How many tokens there are can be told from x.bytes and in_features; so it is with the "
            "bytes of any other tensor of as many tokens.",
            "self.keep counts a storage once, however often it is kept: keep the same object where the numbers are "
            "the same. self.dropout gives x back, or another storage.",
        )),
    Exercise(
        "E7.7", "gpt/interop/hugging_face.py", "fold_bias",
        "Move a head's bias into the shift of the norm before it, and refuse where that cannot be.",
        3, "hard", (
            "W^T (W W^T)^-1 is what linear algebra calls the pseudoinverse of W, and torch has it. It takes a "
            "relative size below which a singular value counts as zero.",
            "Compute in float64 and return the type of shift. Is W times the change really b? Measure what is "
            "missing after the rounding to that type, not before.",
            "How much may be missing: a little of the largest bias, and what rounding takes from W shift anyway. A "
            "comparison with nan is False: ask whether the error is small, not whether it is large.",
        )),
    Exercise(
        "E7.8", "gpt/interop/peft.py", "pack",
        "Put the LoRAs of query, key and value into the one update that PEFT has for all three.",
        4, "hard", (
            "Make a list of the A's that differ: torch.equal tells. Each has a range of columns of lora_B, which "
            "begins where the ranks of those before it end; a part that shares an A has that A's range.",
            "One scale holds for all: that of the part where its size is largest. PEFT computes it as alpha / R, so "
            "alpha grows with R. Parts of another scale have B times the ratio of the two.",
            "A's rows are the A's transposed, one below the other. B starts as zeros of the full size; each part "
            "writes its own rows of B, in its own columns, and what nobody writes stays zero.",
        )),

    Exercise(
        "E8.1", "gpt/experiments/run_records.py", "remembered",
        "Run an experiment once for each set of settings and keep its result in a file.",
        2, "medium", (
            "Two dicts with the same settings in another order are the same settings: digest makes one name of them, "
            "of which the first 16 digits are enough.",
            "made_once reads the file if it is there, and otherwise calls a function and writes what that returns: "
            "settings and result, whole or not at all. Its result is the answer, whatever it is.",
        )),
    Exercise(
        "E8.2", "gpt/evaluate/significance.py", "mean_interval",
        "Compute the mean of a few measurements and its 95 % interval.",
        1, "easy", (
            "s is the root of a sum over n - 1; the mean of n numbers is less uncertain than one by the root of n.",
            "STUDENT_T begins with one degree of freedom, and n values have n - 1 of them: which place is that, "
            "counted from 0?",
        )),
    Exercise(
        "E8.3", "gpt/evaluate/significance.py", "beside",
        "Compare two settings seed by seed, and print the mean with one sign.",
        1, "easy", (
            "mean_interval twice: of the values, for what is printed, and of the differences, for the sign.",
            "An interval leaves out 0 if it lies on one side of it as a whole. Two equal lists have differences of "
            "0: which sign do they get?",
        )),
    Exercise(
        "E8.4", "gpt/experiments/weight_updates.py", "subspace_similarity",
        "Measure how much the strongest directions of two matrices share, for every number of them.",
        3, "hard", (
            "The left-singular vectors of a matrix are the first thing that torch.linalg.svd returns, the strongest "
            "first. With full_matrices=False there are as many as the matrix has columns.",
            "U^T V holds every direction of one beside every direction of the other, (r1, r2). The squared norm of "
            "its first i rows and j columns is a sum of squares: two cumulative sums give it for all i and j at "
            "once.",
            "Divide by the smaller of i and j: a column (r1, 1) and a row (r2,) broadcast. Rounding may leave a "
            "little more than 1.",
        )),
    Exercise(
        "E8.5", "gpt/experiments/weight_updates.py", "random_similarity",
        "Predict the similarity of two random matrices, for every number of directions.",
        1, "easy", (
            "The docstring derives the formula; i counts from 1 to first_rank, j from 1 to second_rank.",
            "i as a column and j as a row broadcast. Whole numbers have to become floating point before the division "
            "is exact enough.",
        )),
    Exercise(
        "E8.6", "gpt/experiments/weight_updates.py", "svd_of_update",
        "Compute the singular values and directions of a LoRA's update without forming it.",
        3, "hard", (
            "torch.linalg.qr cuts a tall matrix into orthonormal columns and a small square one. Do that to A and to "
            "B^T, both through in_float64.",
            "dW = Qb (scale Rb Ra^T) Qa^T. The SVD of the small middle matrix, U S Vh, makes that Qb U S Vh Qa^T: "
            "which of these products are orthonormal?",
            "Look at the shapes first: an error that says what they are, and what they should be, before anything is "
            "computed.",
        )),
    Exercise(
        "E8.7", "gpt/experiments/weight_updates.py", "effective_rank",
        "Count the directions of an update so that weak ones count for less.",
        1, "easy", (
            "Shares first: each value over the sum of all. Then e to the entropy of the shares, in nats.",
            "0 ln 0 is 0 here and nan in floating point: torch.special has the entropy's term with that case in it.",
            "Refuse what has no shares: a value below 0, or no value above it.",
        )),
    Exercise(
        "E8.8", "gpt/experiments/weight_updates.py", "with_updates_cut",
        "Copy a fine-tuned model and take from each weight what lies beyond a rank.",
        2, "medium", (
            "Cut the copy, not what you were given: copy.deepcopy.",
            "The terms from `rank` on are U's columns, S's values and Vh's rows from there on; their product has the "
            "shape of the weight. Where nothing is left to subtract, nothing changes, not even by rounding.",
            "The updates' keys are names of layers: get_submodule. A LoRA layer has its weight one level deeper.",
        )),

    Exercise(
        "E9.1", "gpt/applications/own_data.py", "number_classes",
        "Turn the labels of a table into class numbers, and refuse what cannot become a classifier.",
        3, "medium", (
            "value_counts gives the labels and how many rows each has; sort the labels, not the rows. Whole numbers "
            "are sorted by what they are worth, and stay strings.",
            "For labels that are almost equal: casefold and strip make one form of both, and a dict remembers who "
            "had that form first.",
            "How many different texts has each label? Texts are different if they are so after `normalised`; groupby "
            "and nunique count them. assign makes a new table.",
        )),
    Exercise(
        "E9.2", "gpt/losses.py", "class_weights",
        "Compute the weights that let each class count as much as any other.",
        1, "easy", (
            "bincount counts how often each number occurs. A class that does not occur has to be counted, too: with "
            "0.",
            "Say which class it is before you divide by 0. Then the formula does it for all classes at once.",
        )),
    Exercise(
        "E9.3", "gpt/losses.py", "class_loss",
        "Compute the mean cross-entropy of a batch, in which each message counts as much as its class weighs.",
        1, "easy", (
            "Without weights it is F.cross_entropy as it is.",
            "F.cross_entropy takes weights of classes, too; what it does with them at the end is told by "
            "`reduction`. Which of its three values leaves the mean to you?",
        )),
    Exercise(
        "E9.4", "gpt/batches.py", "batches_of_tokens",
        "Cut rows into batches that hold no more than TOKENS tokens, padding and all.",
        2, "medium", (
            "Sort the rows by length: then the row that comes is the longest of its batch so far, and all of the "
            "batch would be padded to it.",
            "Before a row joins, count what the batch would be with it. Too much: yield the batch and begin a new "
            "one. But never yield an empty batch: a row that is too long by itself gets one of its own.",
            "What is left at the end is a batch, too.",
        )),
)

CHAPTER_10 = (
    Exercise(
        "E10.1", "gpt/evaluate/significance.py", "resampled_interval",
        "Compute the mean of a few seeds' results and an interval that knows what the seeds share.",
        2, "easy", (
            "It is mean_interval with another variance (E8.2). That function gives the mean, and says what is wrong "
            "with too few values and too many; the spread of one seed it keeps to itself.",
            "Two terms stand under the root: one becomes smaller with every seed, the other stays. At which `shared` "
            "would the second divide by 0? Refuse that first, and what is no share.",
        )),
    Exercise(
        "E10.2", "gpt/experiments/spam_filters.py", "with_the_rest",
        "Add to three splits all the messages that none of them has, and let no two of them share one.",
        3, "medium", (
            "The rest is told by its rows and not by its texts: a copy of a message is a message of its own.",
            "A dict from letters to the number of a split, made once of all three, says where a message of the rest "
            "belongs, or that chance may decide.",
            "Only what belongs nowhere is drawn, all of it at once, and so a third piece comes behind the split's own "
            "rows and those that join it. An argument of pd.concat numbers the rows anew.",
        )),
    Exercise(
        "E10.3", "gpt/evaluate/calibration.py", "average_precision",
        "Compute the mean, over the positives, of the precision down to each of them; equal scores enter together.",
        3, "medium", (
            "On paper first, for the six messages of 10.3: how many messages have each different score, and how many "
            "of them are positives? From the top, what are the sums so far?",
            "unique gives the different scores in ascending order, and, when asked, which of them each message has "
            "and how often each occurs; bincount counts places. flip turns a list round.",
            "How much recall a threshold adds is how many positives have just that score, out of all. Where there are "
            "none at all the answer is None, not nan.",
        )),
    Exercise(
        "E10.4", "gpt/evaluate/calibration.py", "brier_score",
        "Compute the mean square of how far each probability lies from what came true.",
        1, "easy", (
            "Labels and probabilities may be lists, or per cent by mistake: one of the two functions above makes "
            "tensors of them and refuses what is no probability.",
            "Square each message's distance, then average. `share` divides, and knows what 0/0 is here.",
        )),
    Exercise(
        "E10.5", "gpt/evaluate/significance.py", "counted_once",
        "Keep of each message the outcome with the first seed that tested it.",
        1, "easy", (
            "A new dict, filled seed after seed: what does it say to a message that is in it already?",
            "An outcome may be False, or None. So ask whether the message is there, not whether its outcome is true; "
            "dict has a method that does both steps.",
        )),
    Exercise(
        "E10.6", "gpt/evaluate/significance.py", "holm",
        "Adjust p values for how many there are, so that luck alone rarely makes any of them small.",
        2, "medium", (
            "The answer goes back to the places where the p values stood. So sort the places, by what stands there.",
            "Counted from 0, the one at place k of that order counts m - k times. Remember the largest adjusted value "
            "so far: none after it may be smaller, and none exceeds 1.",
            "A comparison with nan is False: ask whether a p value lies within 0..1, not whether it lies outside.",
        )),
    Exercise(
        "E10.7", "gpt/evaluate/calibration.py", "threshold_for",
        "Find the lowest threshold that loses no more than a given share of the ham.",
        4, "hard", (
            "Which share of the ham scores as much as this, or more? Answer that for every different score, of any "
            "message. Among the ham's scores in ascending order torch.searchsorted finds where each would stand.",
            "That share only falls as scores rise. So those that may not be called spam come first, and their number "
            "is the place of the lowest that may.",
            "There are three cases: none may, all may, or a score that may stands next to one that may not.",
            "Two traps. 0.29 * 100 is less than 29, so compare shares and not numbers of messages. And half of the "
            "sum of two neighbouring numbers is one of the two: which one must the threshold not be?",
        )),
    Exercise(
        "E10.8", "gpt/evaluate/contributions.py", "gradient_times_input",
        "Measure how fast the score rises as each token's vector grows.",
        3, "hard", (
            "evaluating switches dropout off, and gradients too; torch.enable_grad, inside it, switches them on again. "
            "token_vectors gives a list: what you differentiate by stands in it once the model has run.",
            "A batch of one message has one score, spam_scores has it. backward would write into the .grad of every "
            "weight that trains; torch.autograd has a function that only returns what it is asked for.",
            "Vectors and gradient are both (1, T, C). Over which axis is the product summed, so that one number a "
            "token is left? No graph should hang on it.",
        )),
    Exercise(
        "E10.9", "gpt/evaluate/contributions.py", "leave_one_out",
        "Measure by how much the score falls without each token.",
        2, "medium", (
            "Make the T shorter messages first, each without what stands at one place. The same token may stand at "
            "another place as well: that one stays.",
            "spam_scores takes several messages at once, of any lengths; ask it about batch_size of them at a time. "
            "torch.cat puts the answers together. No gradients, no dropout: evaluating.",
            "What is left of a message of one token? The model cannot read nothing: END_OF_TEXT.",
        )),
)

EXERCISES = {row.id: row for row in CHAPTERS_1_TO_4 + CHAPTERS_5_AND_6 + CHAPTERS_7_TO_9 + CHAPTER_10}
