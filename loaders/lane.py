"""The stream of a GPU on which a loader makes its tensors, beside the one that training works on.

What the loader's thread does on torch's default stream stands in line behind every kernel that training has queued. So
its batches are allocated, written and indexed on a stream of their own. It follows the rules of CUDA's streams and of
torch's allocator, and has not run on a GPU yet.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


class Lane:
    """A stream of a device; on a CPU nothing.

    One for a whole loader, whatever becomes of its pipelines: torch gives memory that was freed under a stream to the
    next tensor of the same stream without a wait, so a tensor is written on the stream under which it was allocated.
    Whoever uses it elsewhere calls `record_stream`, or its memory is given away while it is in use.
    """

    def __init__(self, device: str) -> None:
        self._stream: torch.cuda.Stream | None = None
        if torch.device(device).type == "cuda":
            self._stream = torch.cuda.Stream(torch.device(device))  # type: ignore[no-untyped-call]

    def on(self) -> AbstractContextManager[None]:
        """Within it, what this thread does with torch on the device goes onto the stream.

        It ends without a wait: see `complete`. Not to be held open over a generator's yield.
        """
        if self._stream is None:
            return nullcontext()
        return torch.cuda.stream(self._stream)


def complete(device: torch.device) -> None:
    """Waits until all that was put onto torch's current stream of a device is done; on a CPU it is."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
