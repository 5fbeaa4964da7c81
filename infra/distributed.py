"""Several processes train one model: torchrun starts them and torch.distributed connects them.

    torchrun --nproc-per-node 4 train.py --algo grpo          (--shard: sharded weights too)

This is data parallelism. Each process samples and scores its share of the problems, then all
processes gather all responses. So every process holds the whole batch, computes the same advantages
and cuts the same micro-batches, of which it runs its share. The weight of a token already counts
the tokens of the whole batch. Therefore the gradients are summed, not averaged:

    grad = sum over processes of grad(sum over its tokens of weight * loss)

The gathered responses take a few megabytes a step. `--shard` keeps a shard of the weights,
gradients and Adam moments on each process (FSDP 2304.11277, `fully_shard` in PyTorch).
With one process, every function here returns its input. Left out on purpose: tensor and pipeline
parallelism, and sampling that overlaps the update.
"""

import os
import sys
from collections import Counter
from datetime import timedelta

import torch
import torch.distributed as dist

from infra.terminal import echo

if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # one process saves the 45 MB of these imports
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
else:
    DTensor = FSDPModule = ()  # isinstance(x, ()) is False for every x


# --- the process group

def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched_processes() -> int:
    """The number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def start(device: str) -> str:
    """Joins the process group of torchrun, if there is one. Returns the device of this process."""
    if launched_processes() == 1:
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device.startswith("cuda"):
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    else:  # the processes of one machine share its cores
        cores = os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo",
                                timeout=timedelta(minutes=30))
    return device


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> None:
    """Ends this process. One of several processes skips Python's clean-up: threads that FSDP leaves
    behind have aborted it twice. All files are written by then."""
    if launched_processes() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether an error means that another process has died."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("Connection closed", "Connection reset", "Broken pipe",
                                          "Timed out waiting", "NCCL")))


# --- sharing work and results

def print_rank0(*words) -> None:
    """Prints once, on rank 0, text that may be from a model or a file."""
    if rank() == 0:
        echo(*words)


def on_rank0(function):
    """Runs function() on rank 0 alone. Every process gets its result, or raises its exception."""
    if world_size() == 1:
        return function()
    result = [None, None]  # value, exception
    if rank() == 0:
        try:
            result[0] = function()
        except Exception as error:
            result[1] = error
    dist.broadcast_object_list(result, src=0)
    if result[1] is not None:
        raise result[1]
    return result[0]


def all_gather(value) -> list:
    """The value of each process, in the order of ranks. A value is anything that pickles."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def local_slice(items) -> slice:
    """The slice of a sequence that this process works on. The slices of all ranks, in order, make
    the whole sequence. A slice is empty if there are fewer items than processes."""
    n, world, r = len(items), world_size(), rank()
    return slice(n * r // world, n * (r + 1) // world)


def parallel_map(function, items: list) -> list:
    """[function(item) for item in items], of which each process computes its slice."""
    local = [function(item) for item in items[local_slice(items)]]
    return [result for part in all_gather(local) for result in part]


def local_token_budget(micro_tokens: int, lengths) -> int:
    """Tokens of a micro-batch, at most `micro_tokens`. With several processes it is small enough
    that rows of these lengths give each process a micro-batch."""
    if world_size() == 1:
        return micro_tokens
    return max(1, min(micro_tokens, -(-sum(lengths) // world_size())))


def local_batches(batches: list) -> list:
    """The micro-batches that this process runs: [(batch, is_own)], the same number on every rank.
    Rank r takes batches r, r + world_size, ... Where these run out, the last batch is repeated with
    is_own False. A repeat adds nothing, but a sharded layer needs every process to gather it.
    """
    world, r = world_size(), rank()
    rounds = -(-len(batches) // world)
    return [(batches[min(k * world + r, len(batches) - 1)], k * world + r < len(batches))
            for k in range(rounds)]


# --- sums

def all_reduce(*tensors) -> None:
    """Sums each tensor over the processes, in place."""
    if world_size() > 1:
        for handle in [dist.all_reduce(x, async_op=True) for x in tensors]:
            handle.wait()


def all_reduce_counts(counts: Counter) -> Counter:
    """Sums numbers by name over the processes."""
    total = Counter()
    for local in all_gather(counts):
        total.update(local)
    return total


def all_reduce_gradients(parameters) -> None:
    """Sums gradients over the processes, in place. FSDP has already summed those of sharded
    parameters in the backward pass."""
    if world_size() == 1:
        return
    replicated = [p for p in parameters if not isinstance(p, DTensor)]
    for p in replicated:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    all_reduce(*(p.grad for p in replicated))


# --- sharded weights

def shard(model) -> None:
    """Leaves a shard of each block's weights on each process."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for block in [*model.blocks, model]:
        fully_shard(block, mesh=mesh)


def is_sharded(model) -> bool:
    """Whether `shard` was applied to the model."""
    return isinstance(model, FSDPModule)


def backward(loss, model) -> None:
    """loss.backward(). FSDP averages gradients over the processes, and the factor makes a sum."""
    (loss * world_size() if is_sharded(model) else loss).backward()


def full_tensor(x, host: bool = False):
    """Replaces the sharded tensors in x by full ones. x is a tensor, or a dict or list of such x.
    Every process must call it. With `host`, rank 0 alone gets the tensor, in main memory."""
    if isinstance(x, DTensor):
        x = x.full_tensor()
        return x if not host else x.cpu() if rank() == 0 else None
    if isinstance(x, dict):
        return {name: full_tensor(value, host) for name, value in x.items()}
    return [full_tensor(value, host) for value in x] if isinstance(x, list) else x


def shard_like(x: torch.Tensor, like):
    """Shards a full tensor as `like` is sharded."""
    if not isinstance(like, DTensor):
        return x
    return distribute_tensor(x, like.device_mesh, like.placements)


def load_moments(optimizer, state: dict) -> None:
    """optimizer.load_state_dict(state) of full tensors, for parameters that may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {}
    for i, values in state["state"].items():
        moments[i] = {name: shard_like(x.to(parameters[i].device), parameters[i]) if x.dim() else x
                      for name, x in values.items()}
    optimizer.load_state_dict({**state, "state": moments})
