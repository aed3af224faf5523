"""PEFT's adapter_config.json: which layers have a LoRA, of which rank and scale. What is no plain LoRA is refused.

A file from elsewhere is not trusted: each value is checked, and so is each regular expression, for one of forty letters
can keep a matcher busy for years. Read along: chapters/07_lora_writer.py. Source: LoraConfig of peft 0.21.2.
"""

import json
import re
from dataclasses import dataclass, field, fields
from typing import Any

from gpt.layouts import each_once

LARGEST = 1 << 16    # bytes; the settings for gpt2-xl have 25,000 if each of the 192 layers is named three times
PLAIN = ("true", "false", "gaussian", "eva", "orthogonal", "mica")    # starts that leave the base's weights alone
TARGETS = ("target_modules", "exclude_modules")
SAVED = {"score": "score", "classifier": None, "ln_f": "ln_f", "transformer.ln_f": "ln_f"}    # None: GPT-2 has no such
NO_MATTER = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "fan_in_fan_out",
             "megatron_core", "qalora_group_size", "eva_config", "runtime_config"}    # they change no answer


@dataclass(frozen=True)
class PeftConfig:
    """The settings of PEFT's LoraConfig that matter here, its names and its defaults. ValueError for a wrong one."""

    peft_type: str
    task_type: str | None = None
    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: Any = True
    target_modules: Any = None
    exclude_modules: Any = None
    layers_to_transform: Any = None
    layers_pattern: Any = None
    modules_to_save: Any = None
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)

    def __post_init__(self):
        layers = self.layers_to_transform
        right = {key: isinstance(value := getattr(self, key), str | None) or is_list(value, str) for key in TARGETS} | {
            "peft_type": self.peft_type == "LORA",
            "task_type": self.task_type in (None, "CAUSAL_LM", "SEQ_CLS"),
            "r": is_rank(self.r),
            "lora_alpha": is_number(self.lora_alpha),
            "lora_dropout": is_number(self.lora_dropout) and 0 <= self.lora_dropout < 1,
            "use_rslora": type(self.use_rslora) is bool,
            "bias": self.bias == "none",
            "init_lora_weights (others change the base)": str(self.init_lora_weights).lower() in PLAIN,
            "layers_to_transform": layers is None or type(layers) is int or is_list(layers, int),
            "layers_pattern": self.layers_pattern in (None, "", [], "h", ["h"]),
            "modules_to_save (only score and ln_f can be)": self.modules_to_save is None or (
                is_list(self.modules_to_save, str) and set(self.modules_to_save) <= SAVED.keys()),
            "rank_pattern": is_pattern(self.rank_pattern, is_rank),
            "alpha_pattern": is_pattern(self.alpha_pattern, is_number),
        }
        for key in (key for key in right if not right[key]):
            value = getattr(self, key.partition(" ")[0])
            raise ValueError(f"a plain LoRA that can be told in our model has no {key} of {value!r:.60}")
        texts = {key: getattr(self, key) for key in TARGETS if isinstance(getattr(self, key), str)}
        texts |= {("pattern", text): text for text in [*self.rank_pattern, *self.alpha_pattern]}
        object.__setattr__(self, "_expressions", compiled(texts))

    @property
    def rule(self):
        """The name in gpt.lora.SCALES."""
        return "alpha/sqrt(r)" if self.use_rslora else "alpha/r"

    @property
    def saved(self):
        """Which of "score" and "ln_f" the adapter brings whole; PEFT adds the head for a classifier."""
        named = {SAVED[name] for name in self.modules_to_save or ()} - {None}
        return named | ({"score"} if self.task_type == "SEQ_CLS" else set())

    def lora_of(self, name):
        """(rank, alpha) of the linear layer "transformer.h.<i>. ...", or None. PEFT: check_target_module_exists."""
        layers, block = self.layers_to_transform, int(name.split(".")[2])
        targets = ["c_attn"] if self.target_modules is None else self.target_modules    # what PEFT takes for a gpt2
        every = isinstance(targets, str) and targets.lower() == "all-linear"
        if self._meant("exclude_modules", self.exclude_modules, name) or not (
                every or self._meant("target_modules", targets, name)):
            return None
        if name in (targets if isinstance(targets, list) else ()):    # named in full: PEFT asks for no number then
            layers = None
        if layers not in (None, []) and block not in (layers if isinstance(layers, list) else [layers]):
            return None
        return self._first(self.rank_pattern, name, self.r), self._first(self.alpha_pattern, name, self.lora_alpha)

    def _meant(self, key, targets, name):
        """Whether the name is meant by a regular expression, which must fit all of it, or by a list of last parts."""
        if isinstance(targets, str):
            return self._expressions[key].fullmatch(name) is not None
        return any(name == target or name.endswith(f".{target}") for target in targets or ())

    def _first(self, pattern, name, default):
        """The value of the first regular expression that fits. PEFT: get_pattern_key."""
        return next((value for text, value in pattern.items()
                     if self._expressions["pattern", text].match(name)), default)


def read_config(file):
    """adapter_config.json -> PeftConfig. Raises: ValueError for what is damaged, or more than a plain LoRA."""
    with open(file, "rb") as opened:
        text = opened.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes for the settings of an adapter")
    try:
        settings = json.loads(text.decode("utf-8"), object_pairs_hook=each_once)
        if not isinstance(settings, dict) or "peft_type" not in settings:
            raise ValueError("these are no settings of an adapter: there is no peft_type")
        known = {part.name for part in fields(PeftConfig)}
        for key in sorted(settings.keys() - known - NO_MATTER):
            if settings[key]:    # null, false and the like: switched off
                raise ValueError(f"{key} is {settings[key]!r:.60}: that is more than a plain LoRA")
        return PeftConfig(**{key: settings[key] for key in settings.keys() & known})
    except (RecursionError, TypeError) as error:    # [[[[ and so on; a list in a place that must be hashed
        raise ValueError(f"these are no settings of an adapter ({error})") from None


def is_rank(value):
    return type(value) is int and value >= 1


def is_number(value):
    return type(value) in (int, float) and abs(value) < 1e30    # which a NaN is not


def is_list(value, kind):
    return type(value) is list and all(type(item) is kind for item in value)


def is_pattern(value, right):
    return type(value) is dict and len(value) <= 256 and all(map(right, value.values()))    # gpt2-xl has 192 layers


def compiled(patterns):
    """The regular expressions of {key: text}. ValueError for one that is none, and if they are not sure to be quick.

    Years are what a repetition in a repetition takes, (a+)+, so none may follow a group, and (?x), which lets a space
    stand between the two, is refused. What is left tries each place in a name for each repetition, and both ways for
    each alternative, at the most: the product is kept small.
    """
    ways = [30 ** len(re.findall(r"[*+{]", text)) * 2 ** len(re.findall(r"[|?]", text.replace("(?:", "(")))
            for text in patterns.values()]
    if sum(ways) > 2_000_000 or any(re.search(r"\)[*+{]|\(\?[a-zA-Z]*x", text) for text in patterns.values()):
        raise ValueError("its patterns could take very long to match: write the names of the layers in full")
    try:
        return {key: re.compile(text if key in TARGETS else rf"(.*\.)?({text})$") for key, text in patterns.items()}
    except (re.error, OverflowError) as error:
        raise ValueError(f"one of its patterns is no regular expression ({error})") from None
