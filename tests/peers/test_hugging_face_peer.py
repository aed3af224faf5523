"""gpt/interop/hugging_face.py against transformers: it loads the folder, misses nothing, and gives the same answers."""

import json

import pytest
import torch
from conftest import TINY
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from gpt.classify import class_logits, classify, swap_head
from gpt.interop.hugging_face import export_hf
from gpt.lora import merge_lora, replace_linear_with_lora
from gpt.tokenizer import gpt2_tokenizer
from gpt.weights import load_gpt2, load_huggingface, load_openai

pytestmark = pytest.mark.peers
BASES = {"tiny": lambda: load_openai(TINY), "mini": lambda: load_gpt2("mini")}


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


def trained(model, K=None, head_too=False):
    """A model with LoRA on every linear layer and a head of K classes, as if trained: none of these tensors is zero."""
    generator = torch.Generator().manual_seed(0)
    if K:
        swap_head(model, K)
    replace_linear_with_lora(model if head_too else model.trf_blocks, 4, 8, generator=generator)
    for name, p in model.named_parameters():
        if name.endswith("lora.B") or K and name.startswith("out_head"):
            p.data.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def loaded(kind, folder):
    """What transformers makes of a folder; every tensor must have found its place."""
    model, notes = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), notes
    return model.eval()


def tokens(model, B, T):
    """Without the last token of the vocabulary, which pads."""
    return torch.randint(model.config.vocab_size - 1, (B, T), generator=torch.Generator().manual_seed(1))


def padded(model, lengths):
    """ids (B, T) padded on the right with the last token of the vocabulary, lengths, labels (not used)."""
    ids, lengths = tokens(model, len(lengths), max(lengths)), torch.tensor(lengths)
    ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = model.config.vocab_size - 1
    return ids, lengths, lengths


def assert_same(theirs, ours):
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max(), "transformers computes something else"


@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_a_language_model_gives_the_same_logits_there(base, tmp_path, merged):
    model, ids = trained(base), tokens(base, 3, 11)
    ours = model(ids)
    if merged:
        merge_lora(model)
    export_hf(model, tmp_path / "out")
    theirs = loaded(AutoModelForCausalLM, tmp_path / "out")
    assert_same(theirs(ids).logits, ours)
    assert theirs.lm_head.weight is theirs.transformer.wte.weight, "the head must be tied there too"
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_huggingface(tmp_path / "theirs" / "model.safetensors", model.config.n_heads)
    again = load_huggingface(tmp_path / "out" / "model.safetensors", model.config.n_heads)
    assert all(torch.equal(p, q) for p, q in zip(back.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def test_it_writes_the_same_text_there(tmp_path):
    from gpt.generate import generate
    model = trained(load_gpt2("mini"))
    ids = tokens(model, 1, 5)
    export_hf(model, tmp_path / "out")
    theirs = loaded(AutoModelForCausalLM, tmp_path / "out")
    ours = generate(model, ids, 20)
    assert theirs.generate(ids, max_new_tokens=20, do_sample=False).tolist() == ours.tolist()


@pytest.mark.parametrize("K, head_too", [(2, False), (5, True)])
@torch.no_grad()
def test_a_classifier_gives_the_same_logits_there_for_any_length(base, tmp_path, K, head_too):
    model, names = trained(base, K, head_too), [f"class {i}" for i in range(K)]
    batch = padded(model, [3, 12, 1, 7])
    ours = class_logits(model, *batch[:-1])
    export_hf(model, tmp_path / "out", labels=names)
    theirs = loaded(AutoModelForSequenceClassification, tmp_path / "out")
    assert_same(theirs(batch[0]).logits, ours)
    assert theirs.config.id2label == dict(enumerate(names)) and theirs.config.num_labels == K
    for row, length in enumerate(batch[1].tolist()):    # one at a time, without padding
        assert_same(theirs(batch[0][row:row + 1, :length]).logits, ours[row:row + 1])


@torch.no_grad()
def test_without_labels_the_number_of_classes_still_arrives(tmp_path):
    model = trained(load_openai(TINY), 3)
    export_hf(model, tmp_path / "out")
    assert loaded(AutoModelForSequenceClassification, tmp_path / "out").config.num_labels == 3


@torch.no_grad()
def test_theirs_reads_a_message_that_ends_in_the_padding_token_before_it(tmp_path):
    """What export_hf says of such messages: ours would read their last token, theirs cannot know that it is one."""
    model = trained(load_openai(TINY), 2)
    export_hf(model, tmp_path / "out")
    theirs = loaded(AutoModelForSequenceClassification, tmp_path / "out")
    ids = tokens(model, 1, 6)
    ids[0, -1] = model.config.vocab_size - 1
    at = [class_logits(model, ids, torch.tensor([length])) for length in (5, 6)]
    assert_same(theirs(ids).logits, at[0])
    assert not torch.allclose(theirs(ids).logits, at[1], atol=1e-3)
    alone = torch.full((1, 1), model.config.vocab_size - 1)    # an empty text: nothing but padding, read at its first
    assert_same(theirs(alone).logits, class_logits(model, alone, torch.tensor([1])))


def test_the_type_of_numbers_arrives(tmp_path):
    model = load_openai(TINY).to(torch.bfloat16)
    export_hf(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == "bfloat16"
    theirs = loaded(AutoModelForCausalLM, tmp_path / "out")
    assert theirs.dtype == torch.bfloat16, "it was loaded as another type"


@torch.no_grad()
def test_a_head_that_was_trained_from_zero_arrives(tmp_path):
    """Its rows add up to almost nothing, so that its bias is folded through a matrix that has almost no inverse."""
    model = load_gpt2("mini").requires_grad_(False)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 4, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    batch, labels = padded(model, [9, 5, 12, 7, 3, 12, 8, 4]), torch.arange(8) % 2
    with torch.enable_grad():
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(class_logits(model, *batch[:-1]), labels).backward()
            optimizer.step()
    model.eval()
    assert model.out_head.bias.abs().max() > 1e-3
    export_hf(model, tmp_path / "out", labels=["ham", "spam"])
    theirs = loaded(AutoModelForSequenceClassification, tmp_path / "out")
    assert_same(theirs(batch[0]).logits, class_logits(model, *batch[:-1]))


TEXTS = ["You won a prize, call now!", "see you at 5", "  two  spaces\n\nlines", "Größe 你好 👍🏽", "x" * 300, "don't we'll"]


@torch.no_grad()
def test_the_folder_is_all_that_a_pipeline_needs(tmp_path):
    model, names = trained(load_gpt2("mini"), 2), ["ham", "spam"]
    tokenizer = gpt2_tokenizer()
    export_hf(model, tmp_path / "out", labels=names)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXTS)["input_ids"] == [tokenizer.encode_ordinary(text) for text in TEXTS]
    assert theirs.pad_token_id == 50256 and theirs.padding_side == "right" and theirs.model_max_length == 256
    ours = classify(model, TEXTS, tokenizer, names)
    for batch_size in (1, 4):
        said = pipeline("text-classification", str(tmp_path / "out"))(TEXTS, batch_size=batch_size)
        assert [answer["label"] for answer in said] == [answer.label for answer in ours]
        assert [answer["score"] for answer in said] == pytest.approx([answer.probability for answer in ours], abs=1e-5)


@torch.no_grad()
def test_their_shards_and_their_classifiers_are_read(tmp_path):
    model, ids = trained(load_gpt2("mini"), 3), tokens(load_gpt2("mini"), 2, 9)
    export_hf(model, tmp_path / "out")
    theirs = loaded(AutoModelForSequenceClassification, tmp_path / "out")
    theirs.score.weight.mul_(2)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5MB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    assert_same(theirs(ids).logits, load_huggingface(tmp_path / "theirs")(ids)[:, -1])


@torch.no_grad()
def test_a_language_model_with_a_head_of_its_own_is_one_there_too(tmp_path):
    model = load_openai(TINY)
    model.out_head = torch.nn.Linear(model.config.emb_dim, model.config.vocab_size, bias=False)
    export_hf(model, tmp_path / "out")
    theirs, ids = loaded(AutoModelForCausalLM, tmp_path / "out"), tokens(model, 2, 9)
    assert_same(theirs(ids).logits, model(ids))
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_huggingface(tmp_path / "theirs").out_head.weight, model.out_head.weight)
