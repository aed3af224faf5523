"""gpt/interop/peft.py against transformers and peft themselves, both ways: the same answers to 1e-5 of the largest."""

import pytest
import torch
from conftest import TINY
from write_peft import (
    CLASSES, TEXT, answers, hugging_face_model, read_by_peft, tokens, trained_by_peft, trained_by_us,
)

from gpt.classify import class_logits
from gpt.interop.peft import export_peft, import_peft
from gpt.lora import LinearWithLoRA, lora_layers, merge_lora
from gpt.weights import load_gpt2, load_huggingface, load_openai

pytestmark = pytest.mark.peers
BASES = {"tiny": lambda: load_openai(TINY), "mini": lambda: load_gpt2("mini")}


def per_layer(model):
    """Other ranks and alphas in each layer, and some layers without."""
    trained_by_us(model)
    for i, (name, layer) in enumerate(list(lora_layers(model))):
        other = LinearWithLoRA(layer.linear, 1 + i % 5, 2.5 + i % 7)
        other.lora.B.data.normal_(0.0, 0.1)
        model.set_submodule(name, layer.linear if i % 4 == 3 else other)
    return model


OURS = {    # how our model is trained, and how many classes it has
    "all linear layers": (trained_by_us, None),
    "query and value": (lambda model: trained_by_us(model, targets=["W_query", "W_value"]), None),
    "value alone": (lambda model: trained_by_us(model, targets=["W_value"]), None),
    "other ranks and alphas in each layer": (per_layer, None),
    "alpha/sqrt(r), rank 3": (lambda model: trained_by_us(model, rank=3, scale="alpha/sqrt(r)"), None),
    "unscaled alpha": (lambda model: trained_by_us(model, scale="alpha"), None),
    "one A for query, key and value": (lambda model: trained_by_us(model, share_a=True), None),
    "two classes with biases": (lambda model: trained_by_us(model, 2), 2),
    "five classes, one A": (lambda model: trained_by_us(model, 5, share_a=True), 5),
    "merged": (lambda model: (trained_by_us(model, 2), merge_lora(model))[0], 2),
}
THEIRS = {    # PEFT's settings, and how many classes
    "text": (TEXT, None),
    "classes, final norm trained": (CLASSES, 3),
    "classes": (dict(task_type="SEQ_CLS", r=2, target_modules=["c_attn"]), 2),
    "all-linear": (dict(task_type="CAUSAL_LM", r=2, lora_alpha=5, target_modules="all-linear"), None),
    "a pattern": (dict(task_type="CAUSAL_LM", r=2, target_modules=r".*\.h\.[02]\.(attn|mlp)\.c_(attn|fc)"), None),
    "some blocks": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_proj"], layers_to_transform=[0, 2],
                         exclude_modules=["mlp.c_proj"]), None),
    "no targets named": (dict(task_type="CAUSAL_LM", r=2), None),
    "no task named": (dict(r=2, target_modules=["c_fc"]), None),
    "orthogonal": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights="orthogonal"), None),
    "mica": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights="mica"), None),
    "random B": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False), None),
    "dropout": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], lora_dropout=0.25), None),
}
CHANGED_BASES = {    # these train numbers of the base too, which no adapter file of ours can hold
    "all biases": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], bias="all"), None),
    "biases beside a LoRA": (dict(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_fc"], bias="lora_only"), 3),
    "all biases, classes": (dict(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], bias="all"), 2),
    "norms": (dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], modules_to_save=["ln_1", "ln_f"]), None),
    "norms, classes": (dict(task_type="SEQ_CLS", r=2, target_modules=["c_proj"], modules_to_save=["ln_2", "ln_f"]), 2),
}


@torch.no_grad()
def ours(model, ids, K):
    """Our model's answers: of a classifier those at the last token, where Hugging Face reads too."""
    return (class_logits(model, ids) if K else model(ids)).float()


def assert_close(one, other, to=1e-5):
    away = ((one - other).abs().max() / other.abs().max()).item()
    assert away <= to, f"the logits differ by {away:.2g} of the largest"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", OURS)
def test_peft_answers_with_our_adapter_as_our_model_does(tmp_path, base, kind):
    train, K = OURS[kind]
    model, plain = train(BASES[base]()), BASES[base]()
    ids = tokens(plain, 3, 20)
    before = ours(plain, ids, None)
    export_peft(model, tmp_path / "adapter")
    expected = ours(model, ids, K)
    assert_close(answers(read_by_peft(plain, tmp_path / "adapter", K), ids), expected)
    if not K:
        assert (expected - before).abs().max() > 0.01 * before.abs().max(), "the adapter changes nothing"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [*THEIRS, *CHANGED_BASES])
def test_our_model_answers_with_an_adapter_of_peft_as_peft_does(tmp_path, base, kind):
    settings, K = (THEIRS | CHANGED_BASES)[kind]
    model = BASES[base]()
    expected = trained_by_peft(model, tmp_path, settings, K)
    before, ids = ours(model, tokens(model, 3, 20), None), tokens(model, 3, 20)
    import_peft(model, tmp_path)
    assert_close(ours(model, ids, K), answers(expected, ids))
    if not K:
        assert (ours(model, ids, K) - before).abs().max() > 1e-3 * before.abs().max(), "the adapter changes nothing"


@pytest.mark.parametrize("kind", THEIRS)
def test_from_peft_to_us_and_back_the_answers_stay(tmp_path, kind):
    settings, K = THEIRS[kind]
    model = BASES["tiny"]()
    expected, ids = trained_by_peft(model, tmp_path / "theirs", settings, K), tokens(model, 3, 20)
    import_peft(model, tmp_path / "theirs")
    model.requires_grad_(False)
    export_peft(model, tmp_path / "ours")
    assert_close(answers(read_by_peft(BASES["tiny"](), tmp_path / "ours", K), ids), answers(expected, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_to_its_last_digits(tmp_path, dtype):
    model, ids = trained_by_us(load_openai(TINY).to(dtype), 2), tokens(load_openai(TINY), 3, 20)
    export_peft(model, tmp_path / "adapter")
    theirs = read_by_peft(load_openai(TINY).to(dtype), tmp_path / "adapter", 2)
    assert_close(answers(theirs, ids), ours(model, ids, 2), to=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "loftq", "lora_ga"])
def test_a_start_that_changes_the_base_is_refused(tmp_path, start):
    from peft import LoraConfig
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"])
    config.init_lora_weights = start
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="init_lora_weights"):
        import_peft(load_openai(TINY), tmp_path)


@pytest.mark.parametrize("K", [None, 2])
def test_a_padding_token_that_was_added_is_no_obstacle(tmp_path, K):
    """resize_token_embeddings, then LoRA: PEFT saves the whole embedding beside it."""
    from peft import LoraConfig, get_peft_model
    model = BASES["tiny"]()
    theirs = hugging_face_model(model, K)
    theirs.save_pretrained(tmp_path / "base")
    theirs = type(theirs).from_pretrained(tmp_path / "base")
    theirs.resize_token_embeddings(model.config.vocab_size + 1)
    settings = LoraConfig(task_type="SEQ_CLS" if K else "CAUSAL_LM", r=2, target_modules=["c_attn"],
                          init_lora_weights=False)
    theirs = get_peft_model(theirs, settings).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ids = tokens(model, 3, 20)
    import_peft(model, tmp_path / "adapter")
    expected = answers(theirs, ids)
    assert_close(ours(model, ids, K), expected if K else expected[..., :model.config.vocab_size])


@pytest.mark.parametrize("settings", [dict(use_dora=True), dict(lora_bias=True), dict(init_lora_weights="pissa")], ids=str)
def test_what_is_refused_goes_the_way_that_the_message_shows(tmp_path, settings):
    model = BASES["tiny"]()
    theirs = trained_by_peft(model, tmp_path / "adapter", dict(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"])
                             | settings)
    with pytest.raises(ValueError, match="merge_and_unload, then save_pretrained"):
        import_peft(model, tmp_path / "adapter")
    ids = tokens(model, 3, 20)
    expected = answers(theirs, ids)
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert_close(ours(load_huggingface(tmp_path / "merged"), ids, None), expected)
