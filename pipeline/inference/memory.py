"""Memory that runs out on a device, and what is done to have it back."""

import gc

import torch

# What a GPU says, besides OutOfMemoryError, when its libraries find no memory.
MEMORY_WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in MEMORY_WORDS)


def release_memory() -> None:
    """Give back the memory of what nobody refers to any more, in cycles and in the device's cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
