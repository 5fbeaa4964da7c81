"""Triton kernels for CUDA; each replaces several of PyTorch's operators.

Decoding is limited by memory bandwidth. PyTorch's operators read the whole cache of every row,
write each intermediate result to memory, and read the logits about fifteen times. These kernels
read only the tokens that exist, once:

    decode_attention   rotates a new query and key (RoPE), appends key and value to the cache, and
                       attends to the row's own tokens (online softmax 1805.02867; FlashAttention
                       2205.14135 for one query)
    rms_norm           fp32 in, the dtype of the weights out
    swiglu             silu(gate) * up
    sample_tokens      log-softmax, entropy and inverse CDF in two reads of a row of logits

and two for training, which engine/logprob.py calls: `token_logprobs` and `logits_gradient`.
The plain form in model.py, engine/rng.py or engine/logprob.py defines each kernel's result; the
tests compare the two. Left out on purpose: splitting a long cache over several programs, prompts
shared by the rows of a group, fp8.
Shapes: N rows, K key/value heads, G query heads a key/value head, d width of a head, V vocabulary.
"""

import os

import torch

triton = None
if torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ:
    try:  # comes with PyTorch's CUDA builds for Linux
        import triton
        import triton.language as tl
    except ImportError:
        pass

INTERPRETED = False  # tests run the kernels on a CPU with TRITON_INTERPRET=1
LOG2E = 1.4426950408889634


def usable(x: torch.Tensor) -> bool:
    """Whether the kernels can compute on x: Triton is installed and no gradient is needed."""
    return (triton is not None and (x.is_cuda or INTERPRETED) and not torch.is_grad_enabled())


if triton:
    @triton.jit
    def decode_attention_kernel(q, k, v, cos, sin, keys, values, lengths, out, q_stride, k_stride,
                                v_stride, rope_stride, capacity, scale, K: tl.constexpr,
                                G: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr,
                                WIDTH: tl.constexpr, BLOCK: tl.constexpr):
        n, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        length = tl.load(lengths + n)
        i, g = tl.arange(0, WIDTH), tl.arange(0, QUERIES)
        inside, partner = i < D, (i + D // 2) % D
        query_mask = (g[:, None] < G) & inside[None, :]

        # 1. RoPE of the new queries (QUERIES, WIDTH) and of the new key (WIDTH,)
        c = tl.load(cos + n * rope_stride + i, mask=inside, other=0.0)
        s = tl.load(sin + n * rope_stride + i, mask=inside, other=0.0)
        at = q + n * q_stride + (head * G + g[:, None]) * D
        query = (tl.load(at + i[None, :], mask=query_mask, other=0.0).to(tl.float32) * c[None, :]
                 + tl.load(at + partner[None, :], mask=query_mask, other=0.0).to(tl.float32)
                 * s[None, :]).to(keys.dtype.element_ty)
        at = k + n * k_stride + head * D
        key = (tl.load(at + i, mask=inside, other=0.0).to(tl.float32) * c
               + tl.load(at + partner, mask=inside, other=0.0).to(tl.float32) * s)
        key = key.to(keys.dtype.element_ty)
        value = tl.load(v + n * v_stride + head * D + i, mask=inside, other=0.0)

        # 2. append them to the cache
        row = (n * K + head) * capacity
        tl.store(keys + (row + length) * D + i, key, mask=inside)
        tl.store(values + (row + length) * D + i, value.to(keys.dtype.element_ty), mask=inside)

        # 3. online softmax over the new token, then over the cache, BLOCK columns at a time
        most = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale
        total = tl.full([QUERIES], 1.0, tl.float32)
        mixed = tl.zeros([QUERIES, WIDTH], tl.float32) + value.to(tl.float32)[None, :]
        for start in range(0, length, BLOCK):
            j = start + tl.arange(0, BLOCK)
            seen = j < length
            block = tl.load(keys + (row + j[None, :]) * D + i[:, None],
                            mask=seen[None, :] & inside[:, None], other=0.0)    # (WIDTH, BLOCK)
            scores = tl.dot(query, block, input_precision="ieee") * scale
            scores = tl.where(seen[None, :], scores, -float("inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            p = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(most - higher)
            block = tl.load(values + (row + j[:, None]) * D + i[None, :],
                            mask=seen[:, None] & inside[None, :], other=0.0)    # (BLOCK, WIDTH)
            mixed = mixed * shrink[:, None] + tl.dot(p.to(block.dtype), block,
                                                     input_precision="ieee")
            total = total * shrink + tl.sum(p, 1)
            most = higher
        at = out + n * (K * G * D) + (head * G + g[:, None]) * D + i[None, :]
        tl.store(at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=query_mask)

    @triton.jit
    def rms_norm_kernel(x, gain, out, row_stride, eps, HEADS: tl.constexpr, D: tl.constexpr,
                        WIDTH: tl.constexpr):
        row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
        i = tl.arange(0, WIDTH)
        at = x + row * row_stride + head * D + i
        a = tl.load(at, mask=i < D, other=0.0).to(tl.float32)
        a = a * tl.rsqrt(tl.sum(a * a, 0) / D + eps)
        a = a * tl.load(gain + head * D + i, mask=i < D, other=0.0).to(tl.float32)
        tl.store(out + (row * HEADS + head) * D + i, a.to(out.dtype.element_ty), mask=i < D)

    @triton.jit
    def swiglu_kernel(gate_up, out, F, BLOCK: tl.constexpr):
        row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        gate = tl.load(gate_up + row * 2 * F + i, mask=i < F, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * F + F + i, mask=i < F, other=0.0).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + row * F + i, (silu * up).to(out.dtype.element_ty), mask=i < F)

    @triton.jit
    def lane_sums(logits, row, temperature, V, BLOCK: tl.constexpr):
        """max z, sum exp(z - max z) and sum exp(z - max z) z of a row of logits z = logits /
        temperature. Each lane sums over every BLOCK-th token; the lanes are joined at the end."""
        lane = tl.arange(0, BLOCK)
        most = tl.full([BLOCK], -1e30, tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        weighted = tl.zeros([BLOCK], tl.float32)
        for start in tl.range(0, V, BLOCK, num_stages=4):  # loads run ahead
            z = tl.load(logits + row * V + start + lane, mask=start + lane < V, other=-1e30)
            z = z.to(tl.float32) / temperature
            higher = tl.maximum(most, z)
            shrink, e = tl.exp(most - higher), tl.exp(z - higher)
            total, weighted = total * shrink + e, weighted * shrink + e * z
            most = higher
        peak = tl.max(most, 0)
        shrink = tl.exp(most - peak)
        return peak, tl.sum(total * shrink, 0), tl.sum(weighted * shrink, 0)

    @triton.jit
    def token_logprobs_kernel(logits, chosen, temperature, logp, lse, entropy, V,
                              BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        peak, mass, weighted = lane_sums(logits, row, temperature, V, BLOCK)
        log_sum = peak + tl.log(mass)
        tl.store(lse + row, log_sum)
        tl.store(entropy + row, log_sum - weighted / mass)
        z = tl.load(logits + row * V + tl.load(chosen + row)).to(tl.float32) / temperature
        tl.store(logp + row, z - log_sum)

    @triton.jit
    def logits_gradient_kernel(logits, chosen, temperature, lse, entropy, grad_logp, grad_entropy,
                               out, V, BLOCK: tl.constexpr):
        row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        z = tl.load(logits + row * V + i, mask=i < V, other=-1e30).to(tl.float32) / temperature
        log_p = z - tl.load(lse + row)
        g, h = tl.load(grad_logp + row), tl.load(grad_entropy + row)
        grad = tl.exp(log_p) * -(g + h * (log_p + tl.load(entropy + row)))
        grad = tl.where(i == tl.load(chosen + row), grad + g, grad) / temperature
        tl.store(out + row * V + i, grad.to(out.dtype.element_ty), mask=i < V)

    @triton.jit
    def sample_tokens_kernel(logits, uniform, temperature, token, logp, entropy, V,
                             BLOCK: tl.constexpr):
        row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)

        # 1. the log-sum-exp and the entropy
        peak, mass, weighted = lane_sums(logits, row, temperature, V, BLOCK)
        log_sum = peak + tl.log(mass)
        tl.store(entropy + row, log_sum - weighted / mass)

        # 2. the first token at which the cumulative sum exceeds u * mass
        wanted = tl.load(uniform + row) * mass
        before = 0.0
        found, start = V, 0
        while (found == V) & (start < V):
            i = start + lane
            x = tl.load(logits + row * V + i, mask=i < V, other=-1e30).to(tl.float32) / temperature
            cumulative = before + tl.cumsum(tl.exp(x - peak), 0)
            found = tl.min(tl.where((cumulative > wanted) & (i < V), i, V), 0)
            before = tl.max(cumulative, 0)
            start += BLOCK
        if found == V:  # rounding kept the sum below the threshold: take the most likely token
            found = 0
            start = 0
            while start < V:
                x = tl.load(logits + row * V + start + lane, mask=start + lane < V, other=-1e30)
                x = x.to(tl.float32) / temperature
                found = tl.maximum(found, tl.max(tl.where(x == peak, start + lane, 0), 0))
                start += BLOCK
        tl.store(token + row, found.to(tl.int64))
        x = tl.load(logits + row * V + found).to(tl.float32) / temperature
        tl.store(logp + row, x - log_sum)


def decode_attention(q, k, v, cos, sin, keys, values, lengths, block: int = 64, warps: int = 4,
                     stages: int = 3) -> torch.Tensor:
    """Attention of one decode step, (N, K G d), of q (N, K G, d) and k, v (N, K, d) before RoPE.

    cos and sin (N, 1, d) belong to each row's position. Row n attends to the first lengths[n]
    columns of keys and values (N, K, capacity, d) and to itself; its own key and value are written
    to column lengths[n]."""
    n, heads, d = q.shape
    kv_heads, capacity = keys.shape[1:3]
    out = torch.empty(n, heads * d, dtype=q.dtype, device=q.device)
    group = heads // kv_heads
    decode_attention_kernel[n, kv_heads](
        q, k, v, cos, sin, keys, values, lengths, out, q.stride(0), k.stride(0), v.stride(0),
        cos.stride(0), capacity, LOG2E * d**-0.5, kv_heads, group, d,
        max(16, triton.next_power_of_2(group)), max(16, triton.next_power_of_2(d)), block,
        num_warps=warps, num_stages=stages)
    return out


def rms_norm(x, gain, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """model.rms_norm of x (M, d) with gain (d,), or x (M, h, d) with gain (h, d), in dtype. Rows of
    x need not be contiguous."""
    d, heads = x.shape[-1], gain.numel() // x.shape[-1]
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    rms_norm_kernel[len(x), heads](x, gain, out, x.stride(0), eps, heads, d,
                                   triton.next_power_of_2(d))
    return out


def swiglu(gate_up) -> torch.Tensor:
    """silu(gate) * up (M, F) of gate_up (M, 2 F)."""
    m, f = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(m, f)
    block = min(1024, triton.next_power_of_2(f))
    swiglu_kernel[m, triton.cdiv(f, block)](gate_up, out, f, block)
    return out


def sample_tokens(logits, u, temperature: float):
    """rng.sample_tokens at a temperature above 0: tokens, log-probs and entropies (N,) of logits
    (N, V) and uniform numbers u (N,)."""
    n, v = logits.shape
    token = torch.empty(n, dtype=torch.int64, device=logits.device)
    logp, entropy = torch.empty(2, n, device=logits.device)
    sample_tokens_kernel[n,](logits, u, temperature, token, logp, entropy, v,
                    min(4096, triton.next_power_of_2(v)), num_warps=8)
    return token, logp, entropy


def token_logprobs(logits, chosen, temperature: float):
    """logprob.token_logprobs: log-probs, log-sum-exps and entropies (M,)."""
    m, v = logits.shape
    logp, lse, entropy = torch.empty(3, m, device=logits.device)
    token_logprobs_kernel[m,](logits, chosen, temperature, logp, lse, entropy, v,
                       min(4096, triton.next_power_of_2(v)), num_warps=8)
    return logp, lse, entropy


def logits_gradient(logits, chosen, temperature: float, lse, entropy, grad_logp, grad_entropy,
                    dtype):
    """logprob.logits_gradient: (M, V) in dtype."""
    m, v = logits.shape
    grad_entropy = torch.zeros_like(lse) if grad_entropy is None else grad_entropy.contiguous()
    out = torch.empty(m, v, dtype=dtype, device=logits.device)
    block = min(4096, triton.next_power_of_2(v))
    logits_gradient_kernel[m, triton.cdiv(v, block)](
        logits, chosen, temperature, lse, entropy, grad_logp.contiguous(), grad_entropy, out, v,
        block, num_warps=8)
    return out
