"""The processes that train one model together, as a training step sees them: one or several.

Each takes its share of a batch's rows, all add up their gradients, and all make the same update. It knows
gradients and sums; who started the processes, and what they train, is `export.train.distributed`'s.
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


class LeaderFailedError(ExportError):
    """Rank 0 ended the training with an error, which it tells itself."""


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `count`. With one process everything here gives back what it was given."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that judges, reports and writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's rows of a batch of so many. Of fewer rows than processes each takes all."""
        if rows < self.count:
            return slice(0, rows)
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def weight(self, rows: int) -> float:
        """What the mean over this process's rows counts in the mean over the batch; they add up to 1."""
        if rows < self.count:
            return 1 / self.count
        own: int = rows * (self.rank + 1) // self.count - rows * self.rank // self.count
        return own / rows

    def mean(self, values: Tensor) -> Tensor:
        """values [own rows] -> their mean over the rows of all processes.

        Its gradient is that of the mean over the own rows: weighed and added up over the processes, as a
        loss is, it comes to that of the mean over all.
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
        with self.meeting():
            dist.all_reduce(summed)
        return summed

    def decide(self, judge: Callable[[], bool]) -> bool:
        """What `judge` says on rank 0, on all of them. Where it raises there, LeaderFailedError elsewhere."""
        if self.count == 1:
            return judge()
        verdict = torch.tensor([2])  # if nothing comes of it
        try:
            if self.leads:
                verdict[0] = int(judge())
        finally:
            with self.meeting():
                dist.broadcast(verdict, src=0)
        if verdict[0] == 2:
            raise LeaderFailedError("rank 0 ended the training; see its error")
        return bool(verdict[0])

    @torch.no_grad()
    def add_up_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replaces each gradient, weighed by `weight`, by its sum over the processes, the same on each.

        Dense ones travel together, each sparse one as its rows: what is sent follows the batch.
        """
        if self.count == 1:
            return
        dense = [each.grad for each in weights if each.grad is not None and not each.grad.is_sparse]
        if dense:
            summed = self.total(torch.cat([gradient.reshape(-1) for gradient in dense]))
            pieces = torch.split(summed, [gradient.numel() for gradient in dense])
            for gradient, piece in zip(dense, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))
        for each in weights:
            if each.grad is not None and each.grad.is_sparse:
                each.grad = self._concatenated(each.grad)

    def _concatenated(self, gradient: Tensor) -> Tensor:
        """A sparse gradient with the rows of all processes, in the order of the ranks."""
        rows, values = rows_and_gradients(gradient)
        counts = [rows.new_zeros(1) for _ in range(self.count)]
        with self.meeting():
            dist.all_gather(counts, rows.new_tensor([len(rows)]))
        sizes = [int(count) for count in counts]
        all_rows = torch.cat(self._gathered(rows, sizes))
        all_values = torch.cat(self._gathered(values, sizes))
        return torch.sparse_coo_tensor(
            all_rows.unsqueeze(0), all_values, gradient.shape, check_invariants=False
        )

    def _gathered(self, piece: Tensor, sizes: list[int]) -> list[Tensor]:
        """The pieces of all processes, which differ in their first dimension: padded for the way."""
        padded = piece.new_zeros(max(sizes), *piece.shape[1:])
        padded[: len(piece)] = piece
        found = [torch.empty_like(padded) for _ in sizes]
        with self.meeting():
            dist.all_gather(found, padded)
        return [each[:size] for each, size in zip(found, sizes, strict=True)]

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Turns what torch says when a process is gone into one line."""
        try:
            yield
        except RuntimeError as error:
            line = str(error).strip().partition("\n")[0].partition(". This is")[0]
            reason = re.sub(r"^\[[^]]*\] ", "", line)  # gloo's place in its own source
            raise ExportError(
                f"every process of a training must live until its end (rank {self.rank} got {reason!r}); "
                "see the first error of the others, then start all again"
            ) from None


ALONE = Ranks()
