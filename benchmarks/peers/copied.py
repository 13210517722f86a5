"""Copies the weights of Bidlight's models into FuxiCTR's of the same name, parameter by parameter.

It knows both layouts, and no FuxiCTR class: their modules are read by attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import first_rows
from models.layers import MLP


class Target:
    """A model of FuxiCTR that receives weights, and knows which of its parameters have none yet."""

    def __init__(self, model: Any, features: Sequence[str]) -> None:
        """`features` are the names of the fields there, in the order of the fields here."""
        self.model, self.features = model, features
        self._left = {id(parameter): name for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def put(self, parameter: Any, values: Tensor | float) -> None:
        """Raises ValueError for another shape."""
        shape = () if isinstance(values, float) else tuple(values.shape)
        if shape and shape != tuple(parameter.shape):
            name = self._left.get(id(parameter), "a parameter")
            raise ValueError(f"'{name}' must get {tuple(parameter.shape)} (got {shape}); mend the copy")
        parameter.copy_(torch.as_tensor(values).expand(parameter.shape))
        self._left.pop(id(parameter), None)

    def check(self) -> None:
        """Raises ValueError if a parameter got no weights: nothing is compared that was left to chance."""
        if self._left:
            raise ValueError(f"{', '.join(self._left.values())} must get weights (got none); mend the copy")

    def layer(self, theirs: Any, ours: Any, *, bias: Tensor | float | None = None) -> None:
        """A linear layer or a normalization; `bias` in place of ours."""
        self.put(theirs.weight, ours.weight)
        if theirs.bias is not None:
            self.put(theirs.bias, ours.bias if bias is None else bias)

    def statistics(self, theirs: Any, ours: Any) -> None:
        """A batch normalization with its running averages."""
        self.layer(theirs, ours)
        theirs.running_mean.copy_(ours.running_mean)
        theirs.running_var.copy_(ours.running_var)

    def perceptron(self, theirs: Any, ours: MLP, added: Tensor | float = 0.0) -> None:
        """With `added` to the output's bias."""
        layers = [layer for layer in theirs.mlp if isinstance(layer, nn.Linear)]
        own: list[Any] = [*ours.hidden, *([ours.output] if ours.has_output else [])]
        for position, (layer, source) in enumerate(zip(layers, own, strict=True)):
            is_output = ours.has_output and position == len(own) - 1
            self.layer(layer, source, bias=source.bias + added if is_output else None)

    def embedding(self, theirs: Any, ours: FeaturesEmbedding) -> None:
        """The tables of those fields that `theirs` has; one row a field's id."""
        tables = getattr(theirs, "embedding_layer", theirs).embedding_layers
        firsts = first_rows(ours.fields)
        for name, field, first in zip(self.features, ours.fields, firsts, strict=True):
            if name in tables:
                self.put(tables[name].weight, ours.table.weight[first : first + field.cardinality])


def final(ours: Any, to: Target) -> None:
    """FINAL with two blocks and outputs that are sums."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    to.put(theirs.field_gate.proj_field.weight, ours.gate.weight)
    to.put(theirs.field_gate.proj_field.bias, ours.gate.bias[:, 0])
    blocks = ((theirs.block1, theirs.fc1, ours.first), (theirs.block2, theirs.fc2, ours.second))
    for block, output, source in blocks:
        for layer, norm, own, own_norm in zip(
            block.layer, block.norm, source.layers, source.norms, strict=True
        ):
            to.layer(layer.linear, own.factors)
            to.statistics(norm, own_norm)
        to.layer(output, source.output, bias=source.output.bias + ours.bias)


def dcn_v3(ours: Any, to: Target) -> None:
    """DCNv3 with one head and self-masks."""
    theirs = to.model
    to.embedding(theirs.embedding_layer.embedding_layer, ours.embedding)
    networks = ((theirs.ECN, theirs.ECN.dfc, ours.exponential), (theirs.LCN, theirs.LCN.sfc, ours.linear))
    for network, output, source in networks:
        for position, own in enumerate(source.layers):
            to.layer(network.w[position], own.cross)
            to.layer(network.layer_norm[position], own.derive.normalize)
            to.put(network.b[position], own.bias)
        to.layer(output, source.output, bias=ours.bias.reshape(1))


def gdcn(ours: Any, to: Target) -> None:
    """GDCN-S and GDCN-P."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    for position, own in enumerate(ours.cross.layers):
        to.layer(theirs.cross_net.w[position], own.cross)
        to.put(theirs.cross_net.b[position], own.cross.bias)
        to.layer(theirs.cross_net.wg[position], own.gate)
    if ours.output is None:
        to.perceptron(theirs.dnn, ours.mlp, ours.bias)
        return
    for layer, own in zip(theirs.dnn.mlp[::2], ours.mlp.hidden, strict=True):
        to.layer(layer, own)
    to.put(theirs.fc.weight, torch.cat([ours.output.weight, ours.mlp.output.weight], dim=1))
    to.put(theirs.fc.bias, ours.mlp.output.bias + ours.bias)


def final_mlp(ours: Any, to: Target) -> None:
    """FinalMLP; a gate's own embeddings there are copies of the model's."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    for number, gate in enumerate(ours.gates, start=1):
        to.layer(getattr(theirs.fs_module, f"fs{number}_gate").mlp[0], gate.hidden)
        to.layer(getattr(theirs.fs_module, f"fs{number}_gate").mlp[2], gate.output)
        if gate.constant is None:
            to.embedding(getattr(theirs.fs_module, f"fs{number}_ctx_emb").embedding_layer, ours.embedding)
        else:
            to.put(getattr(theirs.fs_module, f"fs{number}_ctx_bias"), gate.constant)
    to.perceptron(theirs.mlp1, ours.mlp)
    to.perceptron(theirs.mlp2, ours.second)
    fusion = theirs.fusion_module
    to.layer(fusion.w_x, ours.fusion.first, bias=ours.bias.reshape(1))
    to.layer(fusion.w_y, ours.fusion.second, bias=0.0)
    matrices = torch.stack([head.weight.T for head in ours.fusion.heads])
    to.put(fusion.w_xy, matrices.reshape(-1, 1))


def masknet(ours: Any, to: Target) -> None:
    """MaskNet in both structures."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    for norm, weight, bias in zip(theirs.emb_norm, ours.normalize.weight, ours.normalize.bias, strict=True):
        to.put(norm.weight, weight)
        to.put(norm.bias, bias)
    for block, own in zip(theirs.mask_net.mask_blocks, ours.blocks, strict=True):
        to.layer(block.mask_layer[0], own.mask.aggregate)
        to.layer(block.mask_layer[2], own.mask.project)
        to.layer(block.hidden_layer[0], own.linear)
        to.layer(block.hidden_layer[1], own.normalize)
    if ours.is_stacked:
        to.layer(theirs.mask_net.fc[0], ours.output, bias=ours.bias.reshape(1))
    else:
        to.perceptron(theirs.mask_net.dnn, ours.mlp, ours.bias)


def afn(ours: Any, to: Target) -> None:
    """AFN and AFN+; the perceptron's inputs are ordered by neuron there, and by element here."""
    theirs, neurons = to.model, ours.logarithmic
    to.embedding(theirs.embedding_layer, ours.embedding)
    to.layer(theirs.coefficient_W, neurons.powers)
    to.statistics(theirs.log_batch_norm, neurons.normalize_logs)
    to.statistics(theirs.exp_batch_norm, neurons.normalize)
    to.perceptron(theirs.dense_layer, ours.mlp, ours.bias)
    first, own = theirs.dense_layer.mlp[0], ours.mlp.hidden[0].weight
    by_neuron = own.unflatten(1, (-1, neurons.powers.out_features)).transpose(1, 2)
    to.put(first.weight, by_neuron.flatten(1))
    if ours.second is not None:
        to.embedding(theirs.embedding_layer2, ours.second_embedding)
        to.perceptron(theirs.dnn, ours.second)
        to.put(theirs.fc.weight, 1.0)
        to.put(theirs.fc.bias, 0.0)


def eulernet(ours: Any, to: Target) -> None:
    """EulerNet; the bias of its output is added twice there."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    to.put(theirs.mu, ours.modulus.unsqueeze(0))
    for layer, own in zip(theirs.Euler_interaction_layers, ours.layers, strict=True):
        to.put(layer.inter_orders, own.orders.T)
        to.put(layer.bias_lam, own.log_bias.T.unsqueeze(0))
        to.put(layer.bias_theta, own.angle_bias.T.unsqueeze(0))
        to.layer(layer.im, own.implicit)
        to.layer(layer.norm_r, own.normalize[0])
        to.layer(layer.norm_p, own.normalize[1])
    to.layer(theirs.reg, ours.output, bias=ours.bias.reshape(1) / 2.0)


def bst(ours: Any, to: Target) -> None:
    """BST; attention has biases there, which are zero."""
    theirs = to.model
    to.embedding(theirs.embedding_layer, ours.embedding)
    for encoder, own in zip(theirs.transformer_encoders, ours.transformers, strict=True):
        to.put(encoder.position_emb, own.positions)
        for block, layer in zip(encoder.transformer_blocks, own.layers, strict=True):
            attention = layer.attention
            packed = [part.weight for part in (attention.query, attention.key, attention.value)]
            to.put(block.attention.in_proj_weight, torch.cat(packed))
            to.put(block.attention.in_proj_bias, 0.0)
            to.layer(block.attention.out_proj, attention.output, bias=0.0)
            to.layer(block.ffn[0], layer.inner)
            to.layer(block.ffn[2], layer.outer)
            to.layer(block.layer_norm1, layer.after_attention)
            to.layer(block.layer_norm2, layer.after_layer)
    to.perceptron(theirs.dnn, ours.mlp)


COPIES: dict[str, Callable[[Any, Target], None]] = {
    "final": final,
    "dcn_v3": dcn_v3,
    "gdcn": gdcn,
    "final_mlp": final_mlp,
    "masknet": masknet,
    "afn": afn,
    "eulernet": eulernet,
    "bst": bst,
}
