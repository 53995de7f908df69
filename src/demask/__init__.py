"""Exact, fast parallel decoding for masked diffusion language models."""
