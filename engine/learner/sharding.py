"""One policy over the ranks of a learner group: FSDP2 and the few collectives around it.

A mesh always covers all ranks of torch.distributed. With `mesh=None` (one rank) every function is
the identity, so that a trainer has one code path. Every rank calls every function, in the same
order.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from engine.learner.families import PolicyModel
from engine.learner.loss import Tokens


def world_mesh(device: torch.device, shard: int | None = None) -> DeviceMesh | None:
    """All ranks of torch.distributed; None where there is none, or one rank on a CPU.

    A mesh of one GPU is worth having: FSDP2 then keeps float32 masters and computes in the
    published dtype. With `shard` less than the number of ranks the mesh is (replicas, shards):
    HSDP.
    """
    if not dist.is_initialized():
        return None
    world = dist.get_world_size()
    if world == 1 and device.type == "cpu":
        return None
    if shard is None or shard == world:
        return init_device_mesh(device.type, (world,))
    return init_device_mesh(
        device.type, (world // shard, shard), mesh_dim_names=("replicate", "shard")
    )


def shard(model: PolicyModel, mesh: DeviceMesh, *, dtype: torch.dtype) -> None:
    """Shard the model's parameters in place: layer by layer, then what is left.

    Shards stay float32; they are gathered in `dtype`, and gradients are summed in float32.
    """
    # Inputs are left alone: rotary angles must not be rounded.
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module in [*model.shards(), model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "look")


def release(model: PolicyModel) -> None:
    """Give back what a forward without a backward leaves gathered: FSDP2's root group."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rank(mesh: DeviceMesh | None) -> int:
    """This process's rank among those that share the policy."""
    return 0 if mesh is None else dist.get_rank()


def size(mesh: DeviceMesh | None) -> int:
    """How many ranks share the policy."""
    return 1 if mesh is None else mesh.size()


def maximum(value: int, mesh: DeviceMesh) -> int:
    """The largest `value` of any rank."""
    box = torch.tensor([value], device=mesh.device_type)
    dist.all_reduce(box, op=dist.ReduceOp.MAX, group=dist.group.WORLD)
    return int(box)


def total(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The sum over the ranks."""
    if mesh is not None:
        value = value.clone()
        dist.all_reduce(value, group=dist.group.WORLD)
    return value


def broken(named: Mapping[str, Tensor], mesh: DeviceMesh | None) -> list[str]:
    """Names of the tensors, sharded or not, in which a rank has a NaN or infinity."""
    parts = [part.to_local() if isinstance(part, DTensor) else part for part in named.values()]
    with torch.no_grad():
        # A sum is finite only if its terms are, and takes a fraction of the time; it may overflow.
        sums = torch.stack([part.detach().sum().float() for part in parts])
        suspects = torch.isfinite(sums).logical_not_()
        for i in suspects.nonzero().flatten().tolist():
            suspects[i] = not bool(torch.isfinite(parts[i]).all())
        counts = total(suspects.float(), mesh).tolist()
    return [name for name, count in zip(named, counts, strict=True) if count]


def gather_tokens(parts: Sequence[Tokens], mesh: DeviceMesh | None) -> Tokens:
    """All tokens of all micro-batches and ranks, with rollouts renumbered."""
    columns: list[Tensor] = []
    offset = 0
    for part in parts:
        columns.append(
            torch.stack(
                [
                    part.logprobs_T.double(),
                    part.proximal_T.double(),
                    part.sampler_T.double(),
                    part.advantages_T.double(),
                    part.sequences_T.double() + offset,
                    part.entropy_T.double(),
                ]
            )
        )
        offset += int(part.sequences_T.max()) + 1
    table = torch.cat(columns, dim=1).cpu() if columns else torch.zeros(6, 0, dtype=torch.float64)
    if mesh is not None:
        table = _gather_columns(table, offset, mesh)
    logprobs_T, proximal_T, sampler_T, advantages_T, sequences_T, entropy_T = table
    return Tokens(
        logprobs_T=logprobs_T,
        proximal_T=proximal_T,
        sampler_T=sampler_T,
        advantages_T=advantages_T,
        sequences_T=sequences_T.long(),
        entropy_T=entropy_T,
    )


def _gather_columns(table: Tensor, num_sequences: int, mesh: DeviceMesh) -> Tensor:
    """Concatenate the [6, T] tables of all ranks; row 4 numbers rollouts and is shifted."""
    width = maximum(table.shape[1], mesh)
    padded = torch.full((6, width + 1), float(num_sequences), dtype=torch.float64)
    padded[:, : table.shape[1]] = table
    padded[0, width] = table.shape[1]
    padded = padded.to(mesh.device_type)
    gathered = [torch.empty_like(padded) for _ in range(mesh.size())]
    dist.all_gather(gathered, padded, group=dist.group.WORLD)
    columns: list[Tensor] = []
    offset = 0.0
    for other in gathered:
        other = other.cpu()
        part = other[:, : int(other[0, width])].clone()
        part[4] += offset
        offset += float(other[4, width])
        columns.append(part)
    return torch.cat(columns, dim=1)
