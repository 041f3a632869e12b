"""The lossy steps that make a model smaller, one after another, each cached and measured."""

from edgevit.reduction.chain import Source, reduced_model, reductions, resized

__all__ = ["Source", "reduced_model", "reductions", "resized"]
