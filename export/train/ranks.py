"""The processes that train one model, as a training step sees them: one or several.

Each takes its share of a batch's rows, all sum their gradients, and all make the same update. It knows
gradients and sums. `export.train.distributed` knows how the processes start and what they train.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from export.errors import ExportError
from export.train.row_gradients import rows_and_gradients

# Noted on an error of rank 0 that the others know of.
_TOLD = "the other processes are told"


def is_told(error: BaseException) -> bool:
    """Whether the other processes know of an error of rank 0, and are ready for the next training."""
    return _TOLD in getattr(error, "__notes__", ())


class LeaderFailedError(ExportError):
    """Rank 0 ended the training with an error, which it reports itself."""


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `count`. With one process every method returns its argument unchanged."""

    rank: int = 0
    count: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process evaluates, reports and writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's share of `rows` rows. If there are fewer rows than processes, each takes all."""
        if rows < self.count:
            return slice(0, rows)
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def weight(self, rows: int) -> float:
        """The weight of this process's mean in the mean over the batch; weights sum to 1."""
        if rows < self.count:
            return 1 / self.count
        own: int = rows * (self.rank + 1) // self.count - rows * self.rank // self.count
        return own / rows

    def mean(self, values: Tensor) -> Tensor:
        """values [own rows] -> their mean over the rows of all processes.

        Its gradient is that of the mean over this process's rows. Weighted and summed over the processes, as
        for a loss, it becomes the gradient of the mean over all rows.
        """
        own: Tensor = values.mean()
        if self.count == 1:
            return own
        together = torch.stack([values.detach().sum(), own.new_tensor(float(len(values)))])
        total, rows = self.total(together)
        everywhere: Tensor = own + (total / rows - own.detach())
        return everywhere

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same on each."""
        if self.count == 1:
            return values
        summed = values.clone()
        with self.collective():
            dist.all_reduce(summed)
        return summed

    def decide(self, judge: Callable[[], bool]) -> bool:
        """The result of `judge` on rank 0, on every process. If it raises, others get LeaderFailedError."""
        if self.count == 1:
            return judge()
        verdict = torch.tensor([2])  # if `judge` raises
        try:
            if self.is_leader:
                verdict[0] = int(judge())
        except BaseException as error:
            with self.collective():
                dist.broadcast(verdict, src=0)
            error.add_note(_TOLD)
            raise
        with self.collective():
            dist.broadcast(verdict, src=0)
        if verdict[0] == 2:
            raise LeaderFailedError("rank 0 ended the training; see its error")
        return bool(verdict[0])

    @torch.no_grad()
    def sum_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replaces each gradient, already weighted by `weight`, by its sum over all processes.

        Dense gradients are sent together, and sparse gradients as their rows, so traffic depends on the
        batch.
        """
        if self.count == 1:
            return
        dense = [each.grad for each in weights if each.grad is not None and not each.grad.is_sparse]
        if dense:
            summed = self.total(torch.cat([gradient.reshape(-1) for gradient in dense]))
            parts = torch.split(summed, [gradient.numel() for gradient in dense])
            for gradient, part in zip(dense, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        for each in weights:
            if each.grad is not None and each.grad.is_sparse:
                each.grad = self._concatenated(each.grad)

    def _concatenated(self, gradient: Tensor) -> Tensor:
        """A sparse gradient with the rows of all processes, in the order of the ranks."""
        rows, values = rows_and_gradients(gradient)
        counts = [rows.new_zeros(1) for _ in range(self.count)]
        with self.collective():
            dist.all_gather(counts, rows.new_tensor([len(rows)]))
        sizes = [int(count) for count in counts]
        all_rows = torch.cat(self._gathered(rows, sizes))
        all_values = torch.cat(self._gathered(values, sizes))
        return torch.sparse_coo_tensor(
            all_rows.unsqueeze(0), all_values, gradient.shape, check_invariants=False
        )

    def _gathered(self, own: Tensor, sizes: list[int]) -> list[Tensor]:
        """The tensors of all processes, which differ in their first dimension and are sent padded."""
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        with self.collective():
            dist.all_gather(found, padded)
        return [each[:size] for each, size in zip(found, sizes, strict=True)]

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Converts torch's error for a dead process to a one-line ExportError."""
        try:
            yield
        except RuntimeError as error:
            line = str(error).strip().partition("\n")[0].partition(". This is")[0]
            reason = re.sub(r"^\[[^]]*\] ", "", line)  # gloo's source location
            raise ExportError(
                f"every process of a training must live until its end (rank {self.rank} got {reason!r}); "
                "see the first error of the others, then start all again"
            ) from None


ALONE = Ranks()
