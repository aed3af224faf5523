"""Several adapters on one base model, switched in one process: a spam filter now, a text writer next.

The base's tensors are in memory once. An adapter that is off keeps its layers, which hold the base's own linear layers.
To switch it on is to put them in their places, so no number is copied or read again.

Read along: chapters/07_lora_writer.py.
"""

from torch import nn

from gpt.adapters import load_adapter, remove_adapter
from gpt.lora import lora_layers


class AdapterSwitch:
    """Puts adapters on a model, in place, one at a time. Nothing else may change the model's weights or layers then.

    The model is frozen as `load_adapter` leaves it. Move it to its device and type before adding adapters.

    Input: model, a GPTModel; an adapter that it has is taken off
    """

    def __init__(self, model):
        remove_adapter(model)
        self.model = model
        self.worn = None      # the name of the adapter that is on, None for the base
        self.adapters = {}    # name -> Adapter, with labels and pad_to
        self._layers = {}     # name -> {place in the model: layer}

    def add(self, name, file):
        """Read an adapter from its file and keep it ready; the one that is on stays on (unmerged, if it was merged).

        This takes time, because all weights of the base are hashed for each adapter.

        Output: Adapter, its metadata
        Raises: ValueError for a name that is taken, and for what `load_adapter` refuses: nothing is changed then
        """
        if name is None or name in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already: give the one in {file} another name")
        adapter = load_adapter(self.model, file)
        layers = dict(lora_layers(self.model))
        if adapter.labels:
            layers["out_head"] = self.model.out_head
        self.adapters[name], self._layers[name] = adapter, layers
        self.use(self.worn)
        return adapter

    def use(self, name):
        """Put the adapter `name` on in place of the one that is on; None: the base model alone.

        The logits are bit for bit those of the adapter freshly loaded onto a fresh base. A merged one is unmerged.

        Output: its Adapter, or None
        Raises: ValueError, with the known names, for an unknown one; the adapter that is on stays on
        """
        if name is not None and name not in self.adapters:
            raise ValueError(f"there is no adapter {name!r}; known: {', '.join(self.adapters) or 'none'}")
        remove_adapter(self.model)
        for place, layer in self._layers.get(name, {}).items():
            layer.train(self.model.training)    # it was not in the model when its mode was last set
            self.model.set_submodule(place, layer)
        self.worn = name
        adapter = self.adapters.get(name)
        self.model.pad_to = adapter.pad_to if adapter else None
        return adapter

    @property
    def bytes(self):
        """The bytes that all adapters hold besides the base, unmerged: their A's and B's, and their heads."""
        base = {id(p) for name, p in self.model.named_parameters() if ".lora." not in name and "out_head" not in name}
        layers = nn.ModuleList(layer for layers in self._layers.values() for layer in layers.values())
        return sum(p.nbytes for p in layers.parameters() if id(p) not in base)    # a shared A counts once
