"""Many processes that train one agent: what has to be the same in all of them is reduced here. `torchrun` starts them.

Lightning Fabric finds out who is who, gives each process its device and connects them (gloo on processors, NCCL on
GPUs). Its wrapper for modules, DistributedDataParallel, hooks into `backward()`; gradients here are those of
`torch.autograd.grad`, two losses at a time, looked at before any of them is used. So all gradients of an update go
through one reduction as one flat vector, and the losses with them: what is not finite in one process is then not finite
in any, and all of them skip the update alike. Fabric's own `all_reduce` waits for a barrier first, hence torch's.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from agents.launched import Place
from worldmodels.errors import ConfigError, WorldModelsError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first one evaluates alone, and may take its time."""
_GONE = ("gloo/transport", "remote process exited", "communicator was aborted", "Connection closed", "timed out")
"""By these words gloo, NCCL and the store of addresses say that a connection is lost; all raise RuntimeErrors."""


class Ranks:
    """The processes of a run. Alone, with `count` 1, every method returns at once what it was given.

    rank: which of them this is, from 0, of `count`, of which this machine has `local_count`. device: where this one
    computes. All of them have to call the same methods in the same order. Raises: WorldModelsError: another process
    has ended.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.count, self.local_count, self.device = place.rank, place.count, place.local_count, device

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates, logs and saves."""
        return self.rank == 0

    def mean(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each tensor's mean over the processes, all of them in one reduction."""
        if self.count == 1:
            return tensors
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._reduce(flat)
        pieces = flat.div_(self.count).split([tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]

    def sums(self, *values: Tensor) -> Sequence[Tensor]:
        """Each scalar's sum over the processes."""
        if self.count == 1:
            return values
        total = torch.stack([value.detach() for value in values])
        self._reduce(total)
        return total.unbind()

    def totals(self, *numbers: int) -> Sequence[int]:
        """Each number's sum over the processes."""
        if self.count == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        self._reduce(total)
        return total.tolist()

    def gather(self, tensor: Tensor) -> Tensor:
        """Every process's (n, ...), one after the other: (sum of n, ...). The n may differ."""
        if self.count == 1:
            return tensor
        own = tensor.detach().to(self.device).contiguous()
        sizes = [0] * self.count
        sizes[self.rank] = len(own)
        sizes = self.totals(*sizes)
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        with _others_needed(self.count):
            dist.all_gather(found, padded)
        return torch.cat([piece[:size] for piece, size in zip(found, sizes, strict=True)]).to(tensor.device)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Every process's bytes."""
        if self.count == 1:
            return [data]
        sizes = self.gather(torch.tensor([len(data)])).tolist()
        joined = self.gather(torch.from_numpy(np.frombuffer(data, np.uint8).copy())).cpu().numpy().tobytes()
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [joined[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def decided(self, *, yes: bool) -> bool:
        """What the first process says."""
        return self.totals(int(yes and self.first))[0] > 0

    def wait(self) -> None:
        """Go on when all have come here."""
        self.totals(0)

    @contextmanager
    def after_the_first(self) -> Iterator[None]:
        """The first process goes through the block ahead of all others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    @torch.no_grad()
    def begin_alike(self, *modules: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count == 1:
            return
        with _others_needed(self.count):
            for module in modules:
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)

    def weigh(self, loss: Tensor, mask: Tensor) -> Tensor:
        """A loss that is the mean over `mask`, such that its mean over processes is the mean over all their places."""
        return loss if self.count == 1 else loss * self.shares(mask.sum().unsqueeze(0)).squeeze(0)

    def shares(self, counts: Tensor) -> Tensor:
        """Each of these counts (n,), by its mean over the processes; 1 where there is nothing anywhere."""
        mean = self.mean([counts.float()])[0]
        return torch.where(mean > 0, counts / mean.clamp(min=1 / self.count), 1.0)

    def _reduce(self, flat: Tensor) -> None:
        with _others_needed(self.count):
            dist.all_reduce(flat)


ALONE = Ranks(Place(), torch.device("cpu"))
"""The one process of an ordinary run."""


@contextmanager
def connect(place: Place, device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started, while the block runs; `ALONE` where there are none.

    device: `cpu`, or `cuda` for one GPU each. Raises: ConfigError: not such a device, or fewer GPUs than processes.
    """
    if place.count == 1:
        yield ALONE
        return
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device: each of {place.count} processes takes its own; expected cpu or cuda, got {device}")
    if device == "cuda" and torch.cuda.device_count() < place.local_count:
        raise ConfigError(
            f"device: {place.local_count} processes here need as many GPUs, got {torch.cuda.device_count()}"
        )
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets in every process
    fabric = Fabric(
        accelerator=device,
        devices=place.local_count,
        num_nodes=place.count // place.local_count,
        strategy=DDPStrategy(timeout=PATIENCE),
    )
    try:
        fabric.launch()
        yield Ranks(place, fabric.device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _others_needed(count: int) -> Iterator[None]:
    """Say in one line that another process is gone; every other error is one of this process and goes on as it is."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _GONE):
            raise
        raise WorldModelsError(
            f"one of the {count} processes of this run has ended, and its message says why; start all of them again "
            f"with resume=true ({str(error).splitlines()[0][:120]})"
        ) from error
