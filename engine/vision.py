"""Images before the same GPT: patches of a drawing become embeddings in the place of image tokens.

An image is GRID x GRID patches of SIDE x SIDE black or white pixels. A patch is one token, and its
id spells the place and the pixels, so an image is a row of ids like any text:

    id        = vocab_size + (row * GRID + column) * 2^(SIDE * SIDE) + pixels as bits
    embedding = W2 silu(W1 [pixels, one-hot of row, one-hot of column] + b1) + b2

So prompts, both samplers, the caches and the losses carry images without a further argument. A
policy cannot draw: lm_head has the text's vocabulary alone. Papers: ViT 2010.11929; LLaVA
2304.08485, which also puts embeddings of patches before the text. Left out on purpose: colour and
photographs (an id would need thousands of bits), a pretrained encoder, attention of patches to
later patches.
Shapes: M tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import nn

SIDE, GRID = 6, 5              # pixels of a patch and patches of an image, along one side
BITS = SIDE * SIDE             # of the pixels in an id
N_PATCHES = GRID * GRID        # of an image
N_CODES = N_PATCHES << BITS    # ids of patches; a row of an image has GRID * SIDE pixels


def patch_codes(image) -> list[int]:
    """The ids, less vocab_size, of an image: GRID * SIDE strings of as many characters, of which
    "#" is black. Row by row. Raises ValueError for an image of another size."""
    size = GRID * SIDE
    if len(image) != size or any(len(line) != size for line in image):
        raise ValueError(f"an image has {size} lines of {size} characters")
    codes = []
    for patch in range(N_PATCHES):
        top, left = SIDE * (patch // GRID), SIDE * (patch % GRID)
        pixels = "".join(line[left:left + SIDE] for line in image[top:top + SIDE])
        bits = sum((pixel == "#") << i for i, pixel in enumerate(pixels))
        codes.append(patch << BITS | bits)
    return codes


def patch_features(codes: torch.Tensor) -> torch.Tensor:
    """Pixels, one-hot row and one-hot column (M, BITS + 2 * GRID) of codes (M,)."""
    pixels = codes[:, None] >> torch.arange(BITS, device=codes.device) & 1
    patch = codes >> BITS
    rows, columns = F.one_hot(patch // GRID, GRID), F.one_hot(patch % GRID, GRID)
    return torch.cat((pixels, rows, columns), 1).float()


class PatchEncoder(nn.Module):
    """Embeddings (M, D) of codes (M,)."""

    def __init__(self, width: int):
        super().__init__()
        self.into, self.out = nn.Linear(BITS + 2 * GRID, 2 * width), nn.Linear(2 * width, width)

    def forward(self, codes):
        return self.out(F.silu(self.into(patch_features(codes))))
