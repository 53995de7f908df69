"""Devices by name, and the precision that goes with them."""

import torch

from demask.errors import CheckpointError


def find(device: torch.device | str) -> torch.device:
    """Return a device that is there.

    Raises:
        CheckpointError: no device of that name, or a CUDA device that this machine does not have.

    Example:
        >>> find("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"device = {device!r}: {str(error).splitlines()[0]}; write device='cpu'") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(
            f"device = {str(device)!r}, but torch sees {torch.cuda.device_count()} CUDA devices; write device='cpu', or "
            "install a torch with CUDA"
        )
    return found


def precision(device: torch.device) -> torch.dtype:
    """Return what is computed in where nothing else is said: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16
