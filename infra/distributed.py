"""Several processes, one run: torchrun starts them, torch.distributed joins them.

    torchrun --nproc-per-node 4 train.py --algo grpo          (--shard: the weights in pieces too)

Each process answers and scores its share of the problems, and all are given all answers. So every
process has the whole batch, computes the same advantages and cuts it alike, and takes its share of
the micro-batches; the weights of tokens count those of all, so the sum of the gradients is the
gradient of the whole batch:

    grad = sum over processes of grad(sum over its tokens of weight * loss)

What travels besides the gradients is a few megabytes of token ids. `--shard` keeps weights,
gradients and moments in pieces (fully_shard, 2304.11277) and gathers a layer when it is needed.
With one process everything here does nothing. Left out on purpose: tensor and pipeline parallelism,
sampling that overlaps the update.
"""

import os
import sys
from collections import Counter
from datetime import timedelta

import torch
import torch.distributed as dist

if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # they take 45 MB
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
else:
    DTensor = FSDPModule = ()  # nothing is one


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def start(device: str) -> str:
    """Joins the processes that torchrun started, if it did; the device of this one."""
    if launched() == 1:
        return device
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.startswith("cuda"):
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    else:  # the processes of one machine share its cores
        cores = os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo",
                                timeout=timedelta(minutes=30))
    return device


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> None:
    """Ends the process; one of several without Python's tidying up, when all is written: there
    threads that a sharded model's communication leaves behind may abort it (seen twice)."""
    if launched() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def say(*words) -> None:
    """Prints, but once."""
    if rank() == 0:
        print(*words)


def first(f):
    """What f() of the first process gives, to all; what it raises is raised in all."""
    if world() == 1:
        return f()
    found = [None, None]
    if rank() == 0:
        try:
            found[0] = f()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    return found[0]


def everyone(thing):
    """[thing of each process], to all; anything that can be pickled."""
    if world() == 1:
        return [thing]
    found = [None] * world()
    dist.all_gather_object(found, thing)
    return found


def mine(items) -> slice:
    """This process's share of a sequence: a part of neighbours, so that all parts in the order of
    the processes are the whole. Empty where there are fewer items than processes."""
    n, w, r = len(items), world(), rank()
    return slice(n * r // w, n * (r + 1) // w)


def each(f, items: list) -> list:
    """[f(item) of each], each process computing its share."""
    return [y for part in everyone([f(x) for x in items[mine(items)]]) for y in part]


def portion(most: int, lengths) -> int:
    """Tokens of a micro-batch of rows of these lengths, at most `most`: few enough that each
    process has one to do."""
    return most if world() == 1 else max(1, min(most, -(-sum(lengths) // world())))


def turns(batches: list) -> list:
    """The micro-batches that this process takes, in turn, as many for each: (batch, whether it
    counts). One that does not count is run for company alone, since a layer in pieces is gathered
    by all processes at once."""
    w, r = world(), rank()
    rounds = -(-len(batches) // w)
    return [(batches[min(k * w + r, len(batches) - 1)], k * w + r < len(batches))
            for k in range(rounds)]


def add_up(*tensors) -> None:
    """Sums each tensor over the processes, in place."""
    if world() > 1:
        for handle in [dist.all_reduce(x, async_op=True) for x in tensors]:
            handle.wait()


def add_up_counts(counts: Counter) -> Counter:
    """The sum of every process's numbers by name."""
    total = Counter()
    for each in everyone(counts):
        total.update(each)
    return total


def add_up_gradients(parameters) -> None:
    """The same for gradients; those of a model in pieces are summed by it while going back."""
    if world() == 1:
        return
    copies = [p for p in parameters if not isinstance(p, DTensor)]
    for p in copies:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    add_up(*(p.grad for p in copies))


def shard(model) -> None:
    """Leaves each process a piece of the weights of each of the model's blocks. Its backward pass
    takes the mean of their gradients, where everything here is a sum: see `backward`."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (world(),))
    for block in [*model.blocks, model]:
        fully_shard(block, mesh=mesh)


def backward(loss, model) -> None:
    (loss * world() if in_pieces(model) else loss).backward()


def whole(x, host: bool = False):
    """x, a tensor or a nest of dicts and lists of them, with what is in pieces put together: every
    process must ask. host: it is kept in the first process's main memory alone."""
    if isinstance(x, DTensor):
        x = x.full_tensor()
        return x if not host else x.cpu() if rank() == 0 else None
    if isinstance(x, dict):
        return {k: whole(v, host) for k, v in x.items()}
    return [whole(v, host) for v in x] if isinstance(x, list) else x


def pieces(x: torch.Tensor, like):
    """A whole tensor cut as `like` is."""
    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) \
        else x


def load_moments(optimizer, state: dict) -> None:
    """load_state_dict of whole tensors, into an optimizer of weights that may be in pieces."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {i: {k: pieces(v.to(parameters[i].device), parameters[i]) if v.dim() else v
                   for k, v in s.items()} for i, s in state["state"].items()}
    optimizer.load_state_dict({**state, "state": moments})


def in_pieces(model) -> bool:
    return isinstance(model, FSDPModule)


def left_alone(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    return world() > 1 and (isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("Connection closed", "Connection reset", "Broken pipe",
                                          "Timed out waiting", "NCCL")))
