"""How other files name the sizes and tensors of a GPT-2 and shape them, and how to get from their ways to ours.

OpenAI's files, Hugging Face's and the nested params of the book's code all follow OpenAI's program: linear weights
are (in, out), because it computes x W, and query, key and value stand side by side in one matrix c_attn. Here a
linear weight is (out, in), because nn.Linear computes x W^T, and query, key and value are three.

Tensors are renamed, split and transposed as views: no number is copied. Read along: chapters/04_weights.py.
"""

import json
import re

from gpt.config import GPT2_SIZES, GPTConfig

NAMES = [
    # OpenAI            Hugging Face           here
    ("wte",             "wte.weight",          "tok_emb.weight"),
    ("wpe",             "wpe.weight",          "pos_emb.weight"),
    ("ln_1/g",          "ln_1.weight",         "norm1.scale"),
    ("ln_1/b",          "ln_1.bias",           "norm1.shift"),
    ("attn/c_attn/w",   "attn.c_attn.weight",  "att.c_attn.weight"),    # then W_query, W_key and W_value
    ("attn/c_attn/b",   "attn.c_attn.bias",    "att.c_attn.bias"),
    ("attn/c_proj/w",   "attn.c_proj.weight",  "att.out_proj.weight"),
    ("attn/c_proj/b",   "attn.c_proj.bias",    "att.out_proj.bias"),
    ("ln_2/g",          "ln_2.weight",         "norm2.scale"),
    ("ln_2/b",          "ln_2.bias",           "norm2.shift"),
    ("mlp/c_fc/w",      "mlp.c_fc.weight",     "ff.layers.0.weight"),
    ("mlp/c_fc/b",      "mlp.c_fc.bias",       "ff.layers.0.bias"),
    ("mlp/c_proj/w",    "mlp.c_proj.weight",   "ff.layers.2.weight"),
    ("mlp/c_proj/b",    "mlp.c_proj.bias",     "ff.layers.2.bias"),
    ("ln_f/g",          "ln_f.weight",         "final_norm.scale"),
    ("ln_f/b",          "ln_f.bias",           "final_norm.shift"),
    (None,              "lm_head.weight",      "out_head.weight"),      # a copy of wte, in some files only
]
OURS = {theirs: ours for openai, hugging_face, ours in NAMES for theirs in (openai, hugging_face)}
PLACE = re.compile(r"(?:model/|transformer\.)?(?:h\.?([0-9]+)[/.])?(.*)", re.DOTALL)    # number of the block, rest

HPARAMS = {"n_vocab": "vocab_size", "n_ctx": "context_length", "n_embd": "emb_dim", "n_head": "n_heads",
           "n_layer": "n_layers"}
LARGEST_HPARAMS = 4096    # bytes; the real ones have fewer than 100


def our_name(name):
    """`model/h3/ln_1/g` or `h.3.ln_1.weight` -> `trf_blocks.3.norm1.scale`."""
    number, rest = PLACE.fullmatch(name).groups()
    if rest not in OURS:
        raise ValueError(f"{name}: a GPT-2 has no tensor of this name: is it another kind of model or of file?")
    return OURS[rest] if number is None else f"trf_blocks.{number}.{OURS[rest]}"


def from_openai(tensors):
    """{their name: torch.Tensor} -> {our name: view}: linear weights (out, in), c_attn in three.

    The linear layers are those of attention and feed-forward; their weights come as (1, in, out) or (in, out). The
    outputs of c_attn are those of W_query, W_key and W_value side by side, weight and bias alike. What else there is
    only gets another name (`our_name`). Whether the shapes are a model's is not asked here.

    Raises: ValueError for a name that no GPT-2 has, and for two names of one tensor, with ours
    """
    ours = {}
    for theirs, tensor in tensors.items():
        name = our_name(theirs)
        if re.search(r"\.(att|ff)\..*weight", name):
            tensor = tensor[0] if tensor.ndim == 3 and tensor.shape[0] == 1 else tensor       # (in, out)
            tensor = tensor.t() if tensor.ndim == 2 else tensor                               # (out, in)
        pieces = {name: tensor}
        if "c_attn" in name and tensor.ndim:
            pieces = {name.replace("c_attn", f"W_{which}"): third                             # (C, C) or (C,)
                      for which, third in zip(("query", "key", "value"), tensor.tensor_split(3))}
        if pieces.keys() & ours.keys():
            raise ValueError(f"{theirs}: {name} is there twice, under two names")
        ours |= pieces
    return ours


def nest(arrays):
    """OpenAI's flat names -> the book's nested params: `model/h3/ln_1/g` becomes params["blocks"][3]["ln_1"]["g"].

    Linear weights lose their leading 1 and are (in, out). params["g"] and params["b"] are the final norm's.
    """
    n_layers = len({PLACE.fullmatch(name)[1] for name in arrays} - {None})
    params = {"blocks": [{} for _ in range(n_layers)]}
    for name, array in arrays.items():
        number, rest = PLACE.fullmatch(name).groups()
        *folders, last = rest.removeprefix("ln_f/").split("/")
        place = params if number is None else params["blocks"][int(number)]
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array[0] if last == "w" else array
    return params


def flatten(params):
    """The book's nested params -> {OpenAI's name without "model/": array}; linear weights stay (in, out)."""
    def walk(place, prefix):
        for key, value in place.items():
            yield from walk(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]

    flat = {f"ln_f/{key}" if key in ("g", "b") else key: value for key, value in params.items() if key != "blocks"}
    for i, inner in enumerate(params.get("blocks", [])):
        flat |= walk(inner, f"h{i}/")
    return flat


def read_hparams(path):
    """OpenAI's hparams.json as a dict, and as a GPTConfig.

    Raises: ValueError for anything but an object of the five whole numbers, each once, that make a GPT-2
    """
    with open(path, "rb") as file:
        text = file.read(LARGEST_HPARAMS + 1)
    try:
        if len(text) > LARGEST_HPARAMS:
            raise ValueError(f"more than {LARGEST_HPARAMS:,} bytes for five numbers")
        hparams = json.loads(text.decode("utf-8"), object_pairs_hook=each_once)
        if not isinstance(hparams, dict) or hparams.keys() != HPARAMS.keys():
            raise ValueError(f"it must hold {', '.join(HPARAMS)} and nothing else")
        config = GPTConfig(**{HPARAMS[key]: value for key, value in hparams.items()})
        check_heads(config)
        return hparams, config
    except (ValueError, RecursionError) as error:    # RecursionError: [[[[ and so on
        raise ValueError(f"{path}: {error}") from None


def each_once(pairs):
    """The pairs of a JSON object as a dict, but never silently the last of two equal keys."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def check_heads(config):
    """Heads leave no trace in the tensors: a wrong number shows only where the other sizes are a known GPT-2's."""
    for name, known in GPT2_SIZES.items():
        if config != known and vars(config) | {"n_heads": known.n_heads} == vars(known):
            raise ValueError(f"n_head is {config.n_heads}, but {name}, whose other sizes these are, has "
                             f"{known.n_heads}")
