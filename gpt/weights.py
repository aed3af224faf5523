"""Weights from files: OpenAI's, Hugging Face's, the book's and our own -> a GPTModel.

Each loader returns a model in eval mode and float32, its head tied to its embedding, with memory of its own. Each
is strict (gpt/assemble.py): a tensor that is missing, left over or misshapen is a ValueError that names it, or the
first ten; where the config counts other blocks than there are, only both counts. (A file without a config tells its
depth by its blocks alone: without its last one it is a GPT-2 of one block less.)

Read along: chapters/04_weights.py. Their names and shapes: gpt/layouts.py. OpenAI's format: gpt/tf_checkpoint.py.
"""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from gpt.assemble import assemble, blank, check_tensors, config_of, drop_tied_head
from gpt.assets import ASSETS, data_dir
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.download import DownloadError, fetch
from gpt.files import written_whole
from gpt.layouts import flatten, from_openai, nest, read_hparams
from gpt.tensor_files import about, read_safetensors, read_state_dict
from gpt.tf_checkpoint import open_checkpoint

MINI = Path(__file__).resolve().parent.parent / "data" / "mini" / "model.safetensors"
OPENAI_FILES = ("hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001")
HUGGING_FACE_MASK = re.compile(r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias")    # constants, not weights
BOOK_MASK = re.compile(r"trf_blocks\.[0-9]+\.att\.mask")


def load_openai(directory):
    """The GPT-2 in a folder with OpenAI's three files: hparams.json and model.ckpt's index and data."""
    _, config = read_hparams(Path(directory) / "hparams.json")
    arrays = open_checkpoint(directory)
    with about(directory):
        return assemble(config, from_openai({name: torch.from_numpy(array) for name, array in arrays.items()}))


def load_huggingface(file, n_heads=None):
    """The GPT-2 in Hugging Face's model.safetensors. It holds no config; without n_heads it is emb_dim // 64."""
    with about(file):
        tensors, _ = read_safetensors(file)
        tensors = {name: tensor for name, tensor in tensors.items() if not HUGGING_FACE_MASK.fullmatch(name)}
        tensors = drop_tied_head(from_openai(tensors))
        return assemble(config_of(tensors, n_heads), tensors)


def load_book(file, n_heads=None):
    """The GPT-2 in a .pth that the book's code saved. It holds no config; without n_heads it is emb_dim // 64.

    Its constant masks, which load_state_dict would refuse, are left out.
    Raises: ValueError for a head that is not its embedding: the book does not tie them, so what its code has trained is
        refused, and what it saved after loading OpenAI's weights is read
    """
    with about(file):
        tensors = {name: tensor for name, tensor in read_state_dict(file).items() if not BOOK_MASK.fullmatch(name)}
        tensors = drop_tied_head(tensors)
        return assemble(config_of(tensors, n_heads), tensors)


def load_model(file):
    """The GPT-2 that `save_model` wrote."""
    with about(file):
        tensors, metadata = read_safetensors(file)
        try:
            config = GPTConfig(**json.loads(metadata["config"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"no GPTConfig in its metadata: was it written by save_model? ({error!r})") from error
        return assemble(config, tensors)


def save_model(model, file, dtype=None, **metadata):
    """Write a GPTModel as safetensors, whole or not at all: the tied head once, the config among the metadata.

    Input: dtype: the file's, such as torch.float16 (None: the model's); metadata: what else to note, kept as text
    Raises: ValueError for a model that `load_model` would refuse, and for weights that are too large for dtype
    """
    weights = dict(model.named_parameters())
    stored = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}
    with about(f"{file} was not written"):
        check_tensors(dict(blank(model.config).named_parameters()), stored)
        for name, weight in weights.items():
            if stored[name].dtype != weight.dtype and stored[name].isinf().any() and not weight.isinf().any():
                raise ValueError(f"{name} holds numbers that are too large for {dtype}")
    notes = {key: str(value) for key, value in metadata.items()} | {"config": json.dumps(asdict(model.config))}
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
    openai, hugging_face = [f"{folder}/{file}" for file in OPENAI_FILES], [f"{folder}/model.safetensors"]
    sources = [files for files in (openai, hugging_face) if files[0] in ASSETS]
    failures = []    # False sorts before True: a source whose files are all in data/ comes first
    for files in sorted(sources, key=lambda files: not all((data_dir() / file).is_file() for file in files)):
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
    """OpenAI's weights as NumPy arrays, named and nested as in the book: its function of this name.

    Input: model_size "124M", "355M", "774M" or "1558M"; models_dir: where the folder <model_size> is or shall be
    Output: settings, what hparams.json holds: {"n_vocab": 50257, ...}; params, as `gpt.layouts.nest` nests them
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
    with about("params"), torch.no_grad():
        tensors = from_openai({name: torch.as_tensor(array) for name, array in flatten(params).items()})
        check_tensors(wanted, tensors)
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])
