"""Checkpoints whose weights have been altered: by what int8 bears, and by what it does not."""

from model.checkpoint import Checkpoint
from model.network_files import load_model, weights_of


def changed(directory, change):
    """A checkpoint whose weights `change` has altered, as a network's."""
    network = load_model(directory).requires_grad_(False)
    change(network)
    weights = weights_of(network)
    return Checkpoint(network.config, weights, {name: f"model.safetensors: {name}" for name in weights})


def outliers(factor):
    """As in GPT-2's own checkpoints one activation is far larger than the rest: by a power of two, which changes no product.

    Floating point loses nothing by it, and bytes neither, as weights behind a LayerNorm are sized up with it.
    """

    def change(network):
        for block in network.h:
            for norm, linear in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                norm.weight[3] *= factor
                norm.bias[3] *= factor
                linear.weight[:, 3] /= factor

    return change


def attended(factor):
    """The same of what heads attend to: the weights of such a channel round to nothing beside the others of their outputs."""

    def change(network):
        channel = 2 * network.config.n_embd + 3  # of the values, which stand behind queries and keys
        for block in network.h:
            block.attn.c_attn.weight[channel] *= factor
            block.attn.c_attn.bias[channel] *= factor
            block.attn.c_proj.weight[:, 3] /= factor

    return change


def offset(value):
    """All inputs of the MLPs lie around a value that their biases take off again: neither bytes nor bfloat16 hold what differs."""

    def change(network):
        for block in network.h:
            block.ln_2.bias += value
            block.mlp.c_fc.bias -= value * block.mlp.c_fc.weight.sum(dim=1)

    return change
