"""Task diagrams: questions about a drawing of 32 x 32 pixels. Level 1 has two kinds, level 2 four.

    count   "how many squares"          shapes in some of the 16 cells: squares, circles, triangles
    bars    "how much taller is A than B"   four bars A to D, from left to right
    arrow   "follow the arrows"         from the cell at the top left to a digit
    add     "add the numbers"           two digits

The base knows how to look, that is to write what it sees before the answer, but mostly it guesses.
The answer never stands in the question, so accuracy above that of the commonest answer comes from
the image. Left out on purpose: colour, text in drawings, shapes that overlap.
"""

from tasks.base import Problem, Task
from tasks.corpus import tagged

GUESS_RATE = 0.65    # share of the documents that do not look
MISTAKE_RATE = 0.1   # share of the documents that look and see one thing wrongly
SIZE, CELL = 32, 8   # pixels of a drawing and of a cell, along one side
SHAPES = {
    "square": ("######", "#....#", "#....#", "#....#", "#....#", "######"),
    "circle": ("..##..", ".#..#.", "#....#", "#....#", ".#..#.", "..##.."),
    "triangle": ("..##..", "..##..", ".#..#.", ".#..#.", "#....#", "######"),
}
ARROWS = {
    "right": ("......", "...#..", "######", "######", "...#..", "......"),
    "down": ("..##..", "..##..", "..##..", ".####.", "..##..", "......"),
    "left": ("......", "..#...", "######", "######", "..#...", "......"),
    "up": ("......", "..##..", ".####.", "..##..", "..##..", "..##.."),
}
MOVES = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
DIGIT_LINES = """
    .##. ..#. .##. ###. #..# #### .##. #### .##. .##.
    #..# .##. #..# ...# #..# #... #... ...# #..# #..#
    #..# ..#. ...# .##. #### ###. ###. ..#. .##. #..#
    #..# ..#. ..#. ...# ...# ...# #..# ..#. #..# .###
    #..# ..#. .#.. ...# ...# ...# #..# .#.. #..# ...#
    .##. .### #### ###. ...# ###. .##. .#.. .##. .##."""
DIGITS = list(zip(*map(str.split, DIGIT_LINES.split("\n")[1:]), strict=True))


class Diagrams(Task):
    """Level 1 has the kinds `count` and `bars`, level 2 all four."""

    has_images = True
    words = ("how many squares circles triangles much taller is than follow the arrows add numbers "
             "square circle triangle right down left up A B C D look")
    levels = range(1, 3)
    default_max_new_tokens = 64
    base_steps = 900
    min_base_pass16 = 0.0
    kinds = {1: ("count", "bars"), 2: ("count", "bars", "arrow", "add")}

    def sample_problem(self, rng, held_out):
        kind = rng.choice(self.kinds[self.level])
        question, answer, seen, pixels = DRAW[kind](rng)
        image = tuple("".join("#" if (y, x) in pixels else "." for x in range(SIZE))
                      for y in range(SIZE))
        return Problem(question, answer, image=image, solution=" ".join(seen), category=kind,
                       key=f"{question} {image}")

    def document(self, rng, problem, drill=False):
        """A response of the base model's corpus. The drill always looks, and sees rightly."""
        if not drill and rng.random() < GUESS_RATE:
            return tagged("easy", rng.randint(0, 9))
        seen = problem.solution.split()
        if not drill and rng.random() < MISTAKE_RATE:
            other = DRAW[problem.category](rng)[2]
            i = rng.randrange(len(seen))
            seen[i] = other[min(i, len(other) - 1)]
        return tagged(" ".join(seen), conclude(problem.category, seen, problem.question))


# --- the answer from what was seen

def conclude(kind: str, seen: list[str], question: str) -> str:
    """The answer that follows from the words of a document."""
    if kind == "count":
        return str(seen.count(question.split()[-1].removesuffix("s")))
    if kind == "arrow":
        return seen[-1]
    numbers = [int(word[-1]) for word in seen]
    return str(sum(numbers) if kind == "add" else numbers[0] - numbers[1])


# --- drawings: (question, answer, what is seen, black pixels as (y, x))

def count(rng):
    found, pixels = [], set()
    for cell in range(16):
        if rng.random() < 0.4:
            found.append(rng.choice(list(SHAPES)))
            pixels |= put(SHAPES[found[-1]], CELL * (cell // 4) + rng.randint(0, 2),
                          CELL * (cell % 4) + rng.randint(0, 2))
    asked = rng.choice(list(SHAPES))
    return f"how many {asked}s", str(found.count(asked)), found or ["no"], pixels


def bars(rng):
    heights, pixels = [rng.randint(1, 9) for _ in range(4)], set()
    for i, height in enumerate(heights):
        pixels |= put(["#####"] * 3 * height, SIZE - 3 * height, CELL * i + 2)
    i, j = rng.sample(range(4), 2)
    i, j = (i, j) if heights[i] >= heights[j] else (j, i)
    return (f"how much taller is {'ABCD'[i]} than {'ABCD'[j]}", str(heights[i] - heights[j]),
            [f"{'ABCD'[k]}{heights[k]}" for k in (i, j)], pixels)


def arrow(rng):
    cell, visited, seen, pixels = (0, 0), {(0, 0)}, [], set()
    for _ in range(rng.randint(2, 5)):
        moves = {name: (cell[0] + dy, cell[1] + dx) for name, (dy, dx) in MOVES.items()
                 if 0 <= cell[0] + dy < 4 and 0 <= cell[1] + dx < 4
                 and (cell[0] + dy, cell[1] + dx) not in visited}
        if not moves:
            break
        seen.append(rng.choice(list(moves)))
        pixels |= put(ARROWS[seen[-1]], CELL * cell[0] + 1, CELL * cell[1] + 1)
        cell = moves[seen[-1]]
        visited.add(cell)
    # other cells hold digits, so the way has to be followed
    digits = {other: rng.randint(0, 9) for other in ((y, x) for y in range(4) for x in range(4))
              if other == cell or other not in visited and rng.random() < 0.5}
    for (y, x), digit in digits.items():
        pixels |= put(DIGITS[digit], CELL * y + 1, CELL * x + 2)
    return "follow the arrows", str(digits[cell]), [*seen, str(digits[cell])], pixels


def add(rng):
    numbers = [rng.randint(0, 9) for _ in range(2)]
    pixels = set()
    for i, number in enumerate(numbers):
        pixels |= put(DIGITS[number], rng.randint(2, 24), 16 * i + rng.randint(1, 11))
    return "add the numbers", str(sum(numbers)), list(map(str, numbers)), pixels


def put(shape, top: int, left: int) -> set:
    """The black pixels of a shape at a place."""
    return {(top + y, left + x) for y, line in enumerate(shape) for x, pixel in enumerate(line)
            if pixel == "#"}


DRAW = {"count": count, "bars": bars, "arrow": arrow, "add": add}
