"""Rewrites of the canonical ViT: exact ones, proved on real inputs each time they are applied."""
