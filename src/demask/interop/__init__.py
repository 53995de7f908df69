"""Other libraries: diffusers, transformers, lm-evaluation-harness; each imported only when used."""
