"""Files of weights, OpenAI's, Hugging Face's, the book's and our own, become a GPTModel.

Each loader of a file returns a model in eval mode and float32, with memory of its own. The head is tied to the
embedding, except in a classifier and in a language model that was trained untied. Each loader is strict: a tensor that
is missing, left over or misshapen is a ValueError that names it, or the first ten of them; where the config has another
number of blocks than the file, the error names the two numbers. (A file without a config tells its depth by its blocks
alone, so without its last block it is a GPT-2 that is one block less deep.)

Read along: chapters/04_weights.py. gpt/storage/openai_checkpoint.py reads OpenAI's files.
"""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from gpt.config import GPT2_SIZES, GPTConfig
from gpt.download import ASSETS, DownloadError, data_dir, fetch
from gpt.model import GPTModel, unwrapped
from gpt.storage.files import (
    BadFile, naming_file, read_json, read_safetensors, read_state_dict, sha256_of, written_whole,
)
from gpt.storage.openai_checkpoint import open_checkpoint

MINI = Path(__file__).resolve().parent.parent / "data" / "mini" / "model.safetensors"
MINI_SHA256 = "9b5ae56f04647f5aeb97f3852cc14ffb6f7ff8a4de5b55d4d309baf21be34802"    # of its tensors and config
OPENAI_FILES = ("hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001")
HUGGING_FACE_MASK = re.compile(r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias")    # constants, not weights
BOOK_MASK = re.compile(r"trf_blocks\.[0-9]+\.att\.mask")
WRAPPER = re.compile(r"(?<![^.])(_orig_mod|module)\.")    # what torch.compile and DistributedDataParallel add


def load_openai(directory):
    """The GPT-2 in a folder with OpenAI's three files: hparams.json and model.ckpt's index and data."""
    _, config = read_hparams(Path(directory) / "hparams.json")
    arrays = open_checkpoint(directory)
    with naming_file(directory):
        return assemble(config, from_openai({name: torch.from_numpy(array) for name, array in arrays.items()}))


def load_huggingface(file, n_heads=None):
    """The GPT-2 that Hugging Face's save_pretrained, or our `export_hf`, wrote: its folder, or the file of the weights.

    The config.json beside the weights tells the number of heads, and must have GPT-2's settings (`read_config`).
    Without it see `config_of`. The weights are in model.safetensors, in several files with an index, or in
    pytorch_model.bin. A GPT2ForSequenceClassification becomes a classifier, whose head gets the bias 0; the names of
    its classes are in config.json, under id2label.
    """
    files = files_of_weights(Path(file))
    settings = files[0].with_name("config.json")
    with naming_file(file):
        tensors = {}
        for part in files:
            read = read_state_dict(part) if part.suffix in (".bin", ".pth", ".pt") else read_safetensors(part)[0]
            tensors |= {WRAPPER.sub("", name): tensor for name, tensor in read.items()}
        score = tensors.pop("score.weight", None)    # a classifier's head
        tensors = from_openai({name: t for name, t in tensors.items() if not HUGGING_FACE_MASK.fullmatch(name)})
        if settings.is_file():
            config, tied = read_config(settings)
            if n_heads not in (None, config.n_heads):
                raise ValueError(f"n_heads is {n_heads}, config.json says {config.n_heads}")
        else:
            config, tied = config_of(tensors, n_heads), True
        tensors = drop_tied_head(tensors)
        if tied and "out_head.weight" in tensors:
            raise ValueError("lm_head.weight differs from wte.weight, as if trained untied, but config.json is missing "
                             "or says that they are tied: is the file damaged, or was config.json left behind?")
        if score is not None:
            if score.ndim == 2 and len(score) < 2:
                raise ValueError("score.weight has one output: was it trained to give a number, and no class?")
            tensors |= {"out_head.weight": score, "out_head.bias": score.new_zeros(len(score) if score.ndim else 1)}
        return assemble(config, tensors)


def load_book(file, n_heads=None):
    """The GPT-2 in a .pth that the book's code saved: a language model or a classifier. For n_heads see `config_of`.

    Its constant masks, which load_state_dict would refuse, are left out. The book does not tie the head to the
    embedding. Where the two are equal, as after loading OpenAI's weights, they are one here; a head that training has
    moved stays a matrix of its own.
    """
    with naming_file(file):
        tensors = {WRAPPER.sub("", name): tensor for name, tensor in read_state_dict(file).items()}
        tensors = drop_tied_head({name: t for name, t in tensors.items() if not BOOK_MASK.fullmatch(name)})
        return assemble(config_of(tensors, n_heads), tensors)


def load_model(file):
    """The GPT-2 that `save_model` wrote."""
    with naming_file(file):
        tensors, metadata = read_safetensors(file)
        try:
            config = GPTConfig(**json.loads(metadata["config"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"no GPTConfig in its metadata: was it written by save_model? ({error!r})") from error
        wanted = metadata.get("sha256", MINI_SHA256 if Path(file) == MINI else None)    # older files have none
        if wanted and wanted != sha256_of(tensors, metadata["config"]):
            raise ValueError("its sha256 is not that of its content: it is damaged")
        return assemble(config, tensors)


def save_model(model, file, dtype=None, **metadata):
    """Write a GPTModel as safetensors, whole or not at all: the tied head once, the config among the metadata.

    Input: dtype: the file's, such as torch.float16 (None: the model's); metadata: what else to note, kept as text
    Raises: ValueError for a model with LoRA or a head of its own, and for weights that are too large for dtype
    """
    model = unwrapped(model)
    weights = dict(model.named_parameters())
    stored = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}
    with naming_file(f"{file} was not written"):
        check_tensors(dict(blank(model.config).named_parameters()), stored)
        for name, weight in weights.items():
            if stored[name].dtype != weight.dtype and stored[name].isinf().any() and not weight.isinf().any():
                raise ValueError(f"{name} holds numbers that are too large for {dtype}")
    config = json.dumps(asdict(model.config))
    notes = {key: str(value) for key, value in metadata.items()}
    notes |= {"config": config, "sha256": sha256_of(stored, config)}
    with written_whole(file) as temporary:
        save_file(stored, temporary, notes)


def load_gpt2(name):
    """A GPT-2 by its name in GPT2_SIZES: "mini" is in the repository, the others are fetched once, into data/.

    They come from OpenAI, and 124M, if that fails, from Hugging Face; what lies in data/ already is taken first.
    Raises: gpt.download.DownloadError with the reason of each source, if none delivers
    """
    if name not in GPT2_SIZES:
        raise ValueError(f"there is no GPT-2 called {name!r}; known: {', '.join(GPT2_SIZES)}")
    if name == "mini":
        return load_model(MINI)
    folder = f"gpt2-{re.search(r'[0-9]+M', name)[0]}"
    openai = [f"{folder}/{file}" for file in OPENAI_FILES]
    hugging_face = [f"{folder}/model.safetensors"]

    def is_incomplete(files):
        return any(not (data_dir() / file).is_file() for file in files)

    failures = []
    for files in sorted([openai, hugging_face], key=is_incomplete):    # False, all in data/ already, sorts before True
        if files[0] not in ASSETS:    # only 124M is fetched from Hugging Face
            continue
        try:
            paths = [fetch(file) for file in files]
        except DownloadError as error:
            failures.append(str(error))
            continue
        model = load_openai(paths[0].parent) if files is openai else load_huggingface(paths[0])
        if model.config != GPT2_SIZES[name]:
            raise ValueError(f"{paths[0].parent} holds a model with {model.config}; {name} has {GPT2_SIZES[name]}")
        return model
    raise DownloadError("\n".join(failures))


def download_and_load_gpt2(model_size, models_dir):
    """OpenAI's weights as NumPy arrays, named and nested as by the book's function of this name.

    Input: model_size "124M", "355M", "774M" or "1558M"; models_dir, where the folder <model_size> is or will be
    Output: settings, what hparams.json holds: {"n_vocab": 50257, ...}; params, as `gpt.weights.nest` nests them
    """
    if f"gpt2-{model_size}/{OPENAI_FILES[0]}" not in ASSETS:
        raise ValueError(f"OpenAI released no GPT-2 of size {model_size!r}; known: 124M, 355M, 774M, 1558M")
    folder = Path(models_dir) / model_size
    for file in OPENAI_FILES:
        if not (folder / file).is_file():
            fetched = fetch(f"gpt2-{model_size}/{file}")
            with written_whole(folder / file) as temporary:
                shutil.copyfile(fetched, temporary)
    settings, _ = read_hparams(folder / "hparams.json")
    return settings, nest(open_checkpoint(folder))


def load_weights_into_gpt(model, params):
    """Fill an existing model in place with the params of `download_and_load_gpt2`; on an error nothing is filled.

    The model may be on any device and of any floating dtype; its mode and its tied head stay.
    """
    wanted = dict(model.named_parameters())
    with naming_file("params"), torch.no_grad():
        tensors = from_openai({name: torch.as_tensor(array) for name, array in flatten(params).items()})
        check_tensors(wanted, tensors)
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


# ---- Their names and shapes, and ours --------------------------------------------------------------------------------
# OpenAI's files, Hugging Face's and the nested params of the book's code all follow OpenAI's program: linear weights
# are (in, out), because it computes x W, and query, key and value stand side by side in one matrix c_attn. Here a
# linear weight is (out, in), because nn.Linear computes x W^T, and query, key and value are three. Tensors are renamed,
# split and transposed as views, so no number is copied.

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
OURS = {openai: ours for openai, _, ours in NAMES} | {hugging_face: ours for _, hugging_face, ours in NAMES}
PLACE = re.compile(r"(?:model/|transformer\.)?(?:h\.?([0-9]+)[/.])?(.*)", re.DOTALL)    # number of the block, rest

HPARAMS = {"n_vocab": "vocab_size", "n_ctx": "context_length", "n_embd": "emb_dim", "n_head": "n_heads",
           "n_layer": "n_layers"}
HUGGING_FACE_SETTINGS = {    # a setting that changes what is computed -> its values in GPT-2 (one GELU has two names)
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
    "problem_type": (None, "single_label_classification")}


def our_name(name):
    """`model/h3/ln_1/g` or `h.3.ln_1.weight` -> `trf_blocks.3.norm1.scale`."""
    number, rest = PLACE.fullmatch(name).groups()
    if rest not in OURS:
        raise ValueError(f"{name}: a GPT-2 has no tensor of this name: is it another kind of model or of file?")
    return OURS[rest] if number is None else f"trf_blocks.{number}.{OURS[rest]}"


def from_openai(tensors):
    """{their name: torch.Tensor} -> {our name: view}, with linear weights (out, in) and c_attn cut in three.

    The linear layers are those of attention and feed-forward; their weights come as (1, in, out) or (in, out). The
    outputs of c_attn are those of W_query, W_key and W_value side by side, weight and bias alike. All other tensors
    only get another name (`our_name`). Whether the shapes are a model's is not asked here.

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
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}/")
            else:
                yield prefix + key, value

    flat = {f"ln_f/{key}" if key in ("g", "b") else key: value for key, value in params.items() if key != "blocks"}
    for i, inner in enumerate(params.get("blocks", [])):
        flat |= walk(inner, f"h{i}/")
    return flat


def files_of_weights(path):
    """The files with the tensors of a Hugging Face model, given its folder, its index, or one file."""
    if path.is_dir():
        names = [name + index for name in ("model.safetensors", "pytorch_model.bin") for index in ("", ".index.json")]
        path = next((path / name for name in names if (path / name).exists()), path / names[0])
    if path.suffix != ".json":
        return [path]
    try:
        names = read_json(path)["weight_map"].values()
        return [path.with_name(name) for name in sorted({*names, min(names)})]    # min() refuses none
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path}: it is no index of the files of a model ({error!r})") from error


def read_config(path):
    """Hugging Face's config.json as a GPTConfig, and whether the head is the embedding (tie_word_embeddings).

    Raises: ValueError for another kind of model, and for settings that change GPT-2's formulas
    """
    settings = read_json(path)
    with naming_file(path):
        if not isinstance(settings, dict):
            raise ValueError("it must hold a config, which is a JSON object")
        inner = 4 * settings["n_embd"] if type(settings.get("n_embd")) is int else None
        for name, taken in (HUGGING_FACE_SETTINGS | {"n_inner": (inner, None)}).items():
            if settings.get(name, taken[0]) not in taken:
                raise ValueError(f"{name} is {settings[name]!r}, here it must be {' or '.join(map(repr, taken))}")
        theirs = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}    # the others are called as in hparams.json
        config = GPTConfig(**{ours: settings.get(theirs.get(name, name)) for name, ours in HPARAMS.items()})
        return config, settings.get("tie_word_embeddings", True) is not False


def read_hparams(path):
    """OpenAI's hparams.json as a dict, and as a GPTConfig.

    Raises: ValueError for anything but an object of the five whole numbers that make a GPT-2
    """
    hparams = read_json(path)
    with naming_file(path):
        if not isinstance(hparams, dict) or hparams.keys() != HPARAMS.keys():
            raise ValueError(f"it must hold {', '.join(HPARAMS)} and nothing else")
        config = GPTConfig(**{HPARAMS[key]: value for key, value in hparams.items()})
        for name, known in GPT2_SIZES.items():    # the tensors do not tell the heads: only a known GPT-2 does
            if config != known and vars(config) | {"n_heads": known.n_heads} == vars(known):
                raise ValueError(f"n_head is {config.n_heads}, but {name}, whose other sizes these are, has "
                                 f"{known.n_heads}")
    return hparams, config


# ---- From tensors to a model, strictly: each parameter is written exactly once, and nothing is left over -------------

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def sizes(tensors):
    """What the tensors tell about their config: {field of GPTConfig: value}. They do not tell the number of heads."""
    for name in ("tok_emb.weight", "pos_emb.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise ValueError(f"{name} is missing or not a matrix: is this a GPT-2 at all?")
    vocab_size, emb_dim = tensors["tok_emb.weight"].shape
    blocks = {name.split(".")[1] for name in tensors if name.startswith("trf_blocks.")}
    return {"vocab_size": vocab_size, "context_length": tensors["pos_emb.weight"].shape[0], "emb_dim": emb_dim,
            "n_layers": len(blocks), "qkv_bias": any(name.endswith("W_query.bias") for name in tensors)}


def config_of(tensors, n_heads=None):
    """The GPTConfig of tensors that came without one. They do not tell the number of heads, and it is not guessed.

    Without n_heads, channels and blocks must be those of one of GPT2_SIZES.
    """
    found = sizes(tensors)
    if n_heads is None:
        known = {(config.emb_dim, config.n_layers): config.n_heads for config in GPT2_SIZES.values()}
        n_heads = known.get((found["emb_dim"], found["n_layers"]))
    if n_heads is None:
        raise ValueError(f"{found['n_layers']} blocks of {found['emb_dim']} channels are no known GPT-2, and the "
                         f"tensors do not tell the number of heads (a config.json beside them would): give n_heads")
    return GPTConfig(**found, n_heads=n_heads)


class NothingDrawn(TorchFunctionMode):
    """Within the block normal_ does nothing, because on the meta device there is nothing to fill, and its first call
    there makes torch import what it needs to reason about symbolic shapes, which takes a second.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function.__name__ == "normal_" else function(*args, **kwargs or {})


def blank(config):
    """A GPTModel whose parameters have shapes but no memory and no numbers."""
    with torch.device("meta"), NothingDrawn():
        return GPTModel(config)


def check_tensors(wanted, tensors):
    """Compare tensors with the parameters of a model: names and shapes must agree, and types be one of FLOATS.

    Input: wanted {name: parameter}; tensors {name: torch.Tensor}
    Raises: ValueError with a line for each of the first ten faults: the tensor, both shapes, the likely cause
    """
    faults = []
    for name in sorted(wanted.keys() | tensors.keys()):
        wants = tuple(wanted[name].shape) if name in wanted else "no such tensor"
        has = tuple(tensors[name].shape) if name in tensors else "none"
        if wants != has:
            faults.append(f"{name}: the model wants {wants}, the file has {has}: {likely_cause(name, wants, has)}")
        elif tensors[name].dtype not in FLOATS:
            faults.append(f"{name}: the file has {tensors[name].dtype}, not float32, float16 or bfloat16: is it "
                          f"quantized, or no weight at all?")
    if len(faults) > 10:
        faults[10:] = [f"and {len(faults) - 10} more"]
    if faults:
        raise ValueError("\n".join(faults))


def likely_cause(name, wants, has):
    """Why a tensor is not what the model wants, as a question. wants and has are shapes, or texts."""
    if name.startswith("out_head"):
        return "was the head swapped or untied? Load first, swap then; to save it, see save_adapter and export_hf"
    if name.endswith(("W_query.bias", "W_key.bias", "W_value.bias")) and isinstance(wants, str):
        return "was the model built with qkv_bias=False? GPT-2 has these biases"
    if isinstance(wants, str) or isinstance(has, str):
        return "is it another kind of model, one of another depth, or one with LoRA in it?"
    if name == "pos_emb.weight" and wants[1:] == has[1:]:
        return "was the model built with another context_length?"
    if has == wants[::-1]:
        return "is it transposed? A linear weight is (out, in) here"
    for size, config in GPT2_SIZES.items():
        if config.emb_dim in has and config.emb_dim not in wants:
            return f"is this the {size} checkpoint?"
    return "is it of another size, or damaged?"


@torch.no_grad()
def assemble(config, tensors):
    """A GPTModel in eval mode that holds float32 copies of the tensors, its head tied unless the tensors have one."""
    for field, found in sizes(tensors).items():
        if getattr(config, field) != found:
            raise ValueError(f"{field} is said to be {getattr(config, field)}, the tensors make it {found}: is "
                             f"something damaged, or of two checkpoints?")
    model, head = blank(config), tensors.get("out_head.weight")
    if head is not None:
        bias = "out_head.bias" in tensors
        model.out_head = nn.Linear(config.emb_dim, len(head) if head.ndim else 1, bias, device="meta")
    check_tensors(dict(model.named_parameters()), tensors)
    state = {name: torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor) for name, tensor in tensors.items()}
    model.load_state_dict({"out_head.weight": state["tok_emb.weight"]} | state, assign=True)
    if head is None:
        model.out_head.weight = model.tok_emb.weight
    return model.eval()


def drop_tied_head(tensors):
    """Leave out the file's own copy of the head where it equals the embedding, because here the two are one."""
    head = tensors.get("out_head.weight")
    if head is None or not torch.equal(head, tensors.get("tok_emb.weight", torch.empty(0))):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != "out_head.weight"}
