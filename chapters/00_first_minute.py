"""0  The first minute: eight messages, a small GPT-2, and a spam filter

After this chapter you have gone the whole road once: text, numbers, a language model, a new head, LoRA, training, a
prediction. Nothing is explained yet; the map at the end says where each step is. You need: a little Python. In every
chapter predict() prints a number that was worked out beforehand beside the one measured, and stops where they differ;
show() prints code of gpt/ as it is now; after #> stands what the line above printed.

Run: python chapters/00_first_minute.py                            no network: all it needs is in this repository
     python chapters/00_first_minute.py --text "Are you awake?"    a message of your own too (fetches 0.5 MB, once)
Time: --quick 3 s; full the same, on 2 CPU cores (AMD EPYC)
Source: Radford et al. 2018, section 3.2 (a language model becomes a classifier); Hu et al. 2021 (LoRA)
"""

import torch
from book import predict, section, start

from gpt.batches import pad
from gpt.classify import class_logits, swap_head
from gpt.config import GPT2_SIZES
from gpt.lora import count_parameters, replace_linear_with_lora
from gpt.losses import class_loss, next_token_loss
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer
from gpt.weights import load_gpt2

args = start(__doc__, {}, {}, "--text")

# %%
section("0.1  A message is a row of numbers")
# GPT-2 does not read letters. Its tokenizer cuts a text into words and pieces of words, and each has a number, its id:
# "free" with a space before it is 1479. The ids are written out here so that this chapter needs no file from elsewhere.

MESSAGES = [
    ("spam", "Congratulations! You have won a free phone. Call 09061234567 now to claim your prize.",
     [45048, 0, 921, 423, 1839, 257, 1479, 3072, 13, 4889, 7769, 3312, 10163, 2231, 3134, 783, 284, 1624, 534,
      11596, 13]),
    ("spam", "URGENT! Your number was drawn for a 500 pound cash prize. Text WIN to 80082 today.",
     [4261, 38, 3525, 0, 3406, 1271, 373, 7428, 329, 257, 5323, 14896, 5003, 11596, 13, 8255, 25779, 284, 10460,
      6469, 1909, 13]),
    ("spam", "Free entry in our weekly draw for two tickets. Text GOAL to 87121. 18+ only.",
     [11146, 5726, 287, 674, 10273, 3197, 329, 734, 8587, 13, 8255, 10351, 1847, 284, 10083, 19244, 13, 1248,
      10, 691, 13]),
    ("spam", "You have 1 new voice message. To hear it call 09058094599, 150p per minute.",
     [1639, 423, 352, 649, 3809, 3275, 13, 1675, 3285, 340, 869, 7769, 2713, 34583, 2231, 2079, 11, 6640, 79,
      583, 5664, 13]),
    ("ham", "Are we still on for dinner tonight? I can bring the wine.",
     [8491, 356, 991, 319, 329, 8073, 9975, 30, 314, 460, 2222, 262, 8237, 13]),
    ("ham", "Sorry, I'm in a meeting. I will call you later.",
     [14385, 11, 314, 1101, 287, 257, 3249, 13, 314, 481, 869, 345, 1568, 13]),
    ("ham", "Ok, see you at the station at six then :)",
     [18690, 11, 766, 345, 379, 262, 4429, 379, 2237, 788, 14373]),
    ("ham", "Did you find your keys? I think I saw them in the kitchen.",
     [11633, 345, 1064, 534, 8251, 30, 314, 892, 314, 2497, 606, 287, 262, 9592, 13]),
]
print("spam is advertising that nobody asked for; ham is every other message")
for label, text, ids in MESSAGES:
    print(f"{label:4} {len(ids)} tokens  {text}")

# %%
section("0.2  A small model that has read")
# Mini is a GPT-2 of 14 MiB that this project trained on Wikipedia and newsgroups. It gives every token a probability p
# of coming next. Its surprise, also called the loss, is -ln p of the one that came, in nats: for a model that knows
# nothing p is 1 / 50,257, which is 10.8 nats.

model = load_gpt2("mini")
predict("mini's parameters", 7_259_008, count_parameters(model)[1])
#> mini's parameters: predicted 7,259,008, measured 7,259,008
_, text, ids = MESSAGES[4]
with torch.no_grad():    # a text begins where another one ended
    forwards, backwards = (next_token_loss(model, torch.tensor([[END_OF_TEXT, *row]])) for row in (ids, ids[::-1]))
print(f"'{text}': {forwards:.1f} nats a token; the same tokens backwards {backwards:.1f}")
predict("it knows English: forwards at least 1 nat less", True, bool(forwards < backwards - 1))
#> it knows English: forwards at least 1 nat less: predicted True, measured True

# %%
section("0.3  A new head, and LoRA")
# The head that scores 50,257 next tokens makes way for one that scores two classes. It starts at zero, so both classes
# are equally likely and the first surprise is ln 2 = 0.6931. All else is frozen, and thin matrices beside the weights
# learn instead. They start with random numbers; --seed says which, so that a run can be repeated.

model.requires_grad_(False)
swap_head(model, 2)
replace_linear_with_lora(model.trf_blocks, rank=16, alpha=16, generator=torch.Generator().manual_seed(args.seed))
C, LAYERS, rank = GPT2_SIZES["mini"].emb_dim, GPT2_SIZES["mini"].n_layers, 16
# Beside a weight of (in, out) stand (in, r) and (r, out). A block has 4 weights of (C, C) and 2 of (C, 4 C): 18 r C.
predict("numbers that train", LAYERS * 18 * rank * C + 2 * (C + 1), count_parameters(model)[0])
#> numbers that train: predicted 147,714, measured 147,714

# %%
section("0.4  Train")
# The loop that all of deep learning turns around: guess, measure the surprise, ask which way each number should move,
# move it a little. Messages shorter than the longest are filled up on the right; nothing reads the filling.

ids, lengths = pad([ids for _, _, ids in MESSAGES])                   # (B, T), (B,)
labels = torch.tensor([label == "spam" for label, _, _ in MESSAGES]).long()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for step in range(20):
    loss = class_loss(class_logits(model, ids, lengths), labels)
    if step == 0:
        predict("first loss, nats a message (ln 2)", 0.6931, loss.item(), 1e-3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"after {step + 1} steps: {loss.item():.4f} nats a message")
predict("of the eight it gets right", 8, int((class_logits(model, ids, lengths).argmax(1) == labels).sum()))
#> of the eight it gets right: predicted 8, measured 8

# %%
section("0.5  Two messages that it has not seen")
# Learning eight messages by heart is no art. The spam here is shorter than the ham, unlike in training, so a model that
# had learnt only that spam is long would get both wrong.

NEW = [
    ("Win a free holiday: text SUN to 80082 now!",
     [16643, 257, 1479, 9912, 25, 2420, 35329, 284, 10460, 6469, 783, 0]),
    ("The train is stuck again, so I will be late. Do start without me, I can eat when I get home.",
     [464, 4512, 318, 7819, 757, 11, 523, 314, 481, 307, 2739, 13, 2141, 923, 1231, 502, 11, 314, 460, 4483,
      618, 314, 651, 1363, 13]),
]
if args.text is not None:
    NEW.append((args.text, gpt2_tokenizer().encode_ordinary(args.text) or [END_OF_TEXT]))
ids, lengths = pad([ids[:256] for _, ids in NEW])
model.eval()
with torch.no_grad():
    probabilities = class_logits(model, ids, lengths).softmax(dim=1)    # (B, K)
answers = ["spam" if p > 0.5 else "ham" for p in probabilities[:, 1]]
for answer, p, (text, _) in zip(answers, probabilities.amax(dim=1), NEW):
    print(f"{answer:4} ({p:.1%})  {text}")
predict("the two answers", ["spam", "ham"], answers[:2])
#> the two answers: predicted ['spam', 'ham'], measured ['spam', 'ham']
print("Two right answers prove little: chapter 6 trains on 1,045 messages and is tested on 300 others.")

# %%
section("0.6  The map")
print("""
you saw                                    it is explained in                     and stands in
0.1  text becomes numbers                  chapters/01_tokens.py                  gpt/tokenizer.py
0.2  what is inside the model              chapters/02_attention.py,              gpt/attention.py
                                           chapters/03_gpt_model.py               gpt/model.py
     how it was trained, its surprise      chapters/04_weights.py                 gpt/applications/pretrain.py,
                                                                                  gpt/losses.py
0.3  the new head                          chapters/05_spam_classifier.py         gpt/classify.py
     LoRA                                  chapters/06_lora_spam.py               gpt/lora.py
0.4  padding                               chapters/05_spam_classifier.py         gpt/batches.py
     training                              chapters/04_weights.py                 gpt/train.py
0.5  answers, and how good they are        chapters/05_spam_classifier.py         gpt/evaluate/metrics.py
""".strip())

# %% What you have now: a working classifier, and a question for each of its parts.
#
# Break it, and see what you should see:
#   0.3: leave out model.requires_grad_(False)              -> 0.3 stops: 6,613,634 numbers train
#   0.3: swap_head(model, 2, zero=False)                    -> 0.4 stops: the first loss is not ln 2 (0.51 here, luck)
#   0.4: leave out optimizer.step()                         -> the loss stays 0.6931, and 4 of 8 are right
#   0.4: in the loop (ids, None) for (ids, lengths, None)   -> 4 of 8: it learnt to answer at the filling
#   0.4: lr=1e-1                                            -> the loss ends at 12 nats: each step jumps too far
#   0.4: leave out optimizer.zero_grad()                    -> no harm here: AdamW divides the sum by its size
#   0.2: GPTModel(GPT2_SIZES["mini"]) for load_gpt2("mini") -> 0.2 stops, the model knows nothing; but without that line
#                                                              both answers are right: two messages cannot tell
#
# Try it:
#   python chapters/00_first_minute.py --text "WINNER!! Claim your prize"    the first time this fetches the vocabulary
#   python chapters/00_first_minute.py --seed 1                              do the answers depend on luck?
#   python chapters/01_tokens.py                                             where the numbers come from
