"""Task diagrams: questions about a drawing of 30 x 30 pixels. Level 1 has three kinds, 2 has five.

    count   "how many squares"          shapes in some of the 25 cells: squares, circles, triangles
    bars    "how much taller is A than B"   five bars A to E, from left to right
    arrow   "follow the arrows"         from the cell at the top left to a digit
    add     "add the numbers"           two digits
    read    "read the digits"           one to six digits, row by row

The base knows how to look, that is to write what it sees before the answer, but mostly it guesses.
The answer never stands in the question, so accuracy above that of the commonest answer comes from
the image. Left out on purpose: colour, text in drawings, shapes that overlap.
"""

from tasks.base import Problem, Task
from tasks.corpus import tagged

GUESS_RATE = 0.65    # share of the documents that do not look
MISTAKE_RATE = 0.1   # share of the documents that look and see one thing wrongly
GRID, CELL = 5, 6    # cells of a drawing and pixels of a cell, along one side, as the patches
SIZE = GRID * CELL
NAMES = "ABCDE"      # of the bars
MOVES = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}


def pictures(names: str, lines: str) -> dict[str, list[str]]:
    """name -> lines of pixels, of pictures that stand side by side."""
    return dict(zip(names.split(), zip(*map(str.split, lines.split("\n")[1:]), strict=True),
                    strict=True))


SHAPES = pictures("square circle triangle", """
    ##### .###. ..#..
    #...# #...# .#.#.
    #...# #...# .#.#.
    #...# #...# #...#
    ##### .###. #####""")
ARROWS = pictures("right down left up", """
    ..#.. ..#.. ..#.. ..#..
    ...#. ..#.. .#... .###.
    ##### #.#.# ##### #.#.#
    ...#. .###. .#... ..#..
    ..#.. ..#.. ..#.. ..#..""")
DIGITS = list(pictures("0 1 2 3 4 5 6 7 8 9", """
    .##. ..#. ###. ###. #..# #### .##. #### .##. .##.
    #..# .##. ...# ...# #..# #... #... ...# #..# #..#
    #..# ..#. .##. .##. #### ###. ###. ..#. .##. .###
    #..# ..#. #... ...# ...# ...# #..# .#.. #..# ...#
    .##. .### #### ###. ...# ###. .##. .#.. .##. .##.""").values())


class Diagrams(Task):
    """Level 1 has the kinds `count`, `bars` and `read`, level 2 all five."""

    has_images = True
    words = ("how many squares circles triangles much taller is than follow the arrows add numbers "
             "read digits square circle triangle right down left up A B C D E look")
    levels = range(1, 3)
    default_max_new_tokens = 64
    base_steps = 900
    min_base_pass16 = 0.0
    kinds = {1: ("count", "bars", "read"), 2: ("count", "bars", "read", "arrow", "add")}

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
    if kind in ("arrow", "read"):
        return seen[-1] if kind == "arrow" else "".join(seen)
    numbers = [int(word[-1]) for word in seen]
    return str(sum(numbers) if kind == "add" else numbers[0] - numbers[1])


# --- drawings: (question, answer, what is seen, black pixels as (y, x))

def count(rng):
    found, pixels = [], set()
    for cell in range(GRID * GRID):
        if rng.random() < 0.25:
            found.append(rng.choice(list(SHAPES)))
            pixels |= put(rng, SHAPES[found[-1]], *divmod(cell, GRID))
    asked = rng.choice(list(SHAPES))
    return f"how many {asked}s", str(found.count(asked)), found or ["no"], pixels


def bars(rng):
    heights, pixels = [rng.randint(1, 9) for _ in range(GRID)], set()
    for i, height in enumerate(heights):
        pixels |= {(SIZE - 1 - y, CELL * i + x) for y in range(3 * height) for x in range(1, 5)}
    i, j = sorted(rng.sample(range(GRID), 2), key=lambda k: -heights[k])
    return (f"how much taller is {NAMES[i]} than {NAMES[j]}", str(heights[i] - heights[j]),
            [f"{NAMES[k]}{heights[k]}" for k in (i, j)], pixels)


def arrow(rng):
    cell, seen, ways = (0, 0), [], {}
    while cell not in ways and len(seen) < rng.randint(2, 6):
        moves = {name: (cell[0] + dy, cell[1] + dx) for name, (dy, dx) in MOVES.items()}
        open_moves = [name for name, (y, x) in moves.items()
                      if 0 <= y < GRID and 0 <= x < GRID and (y, x) not in ways]
        if not open_moves:
            break
        seen.append(rng.choice(open_moves))
        ways[cell] = ARROWS[seen[-1]]
        cell = moves[seen[-1]]
    # other cells hold digits too, so the way has to be followed
    cells = [(y, x) for y in range(GRID) for x in range(GRID) if (y, x) not in ways]
    digits = {other: rng.randint(0, 9) for other in cells if other == cell or rng.random() < 0.4}
    pixels = set().union(*(put(rng, shape, *at) for at, shape in ways.items()),
                         *(put(rng, DIGITS[digit], *at) for at, digit in digits.items()))
    return "follow the arrows", str(digits[cell]), [*seen, str(digits[cell])], pixels


def add(rng):
    numbers, pixels = [rng.randint(0, 9) for _ in range(2)], set()
    for i, number in enumerate(numbers):
        pixels |= put(rng, DIGITS[number], rng.randrange(GRID), 3 * i + rng.randrange(2))
    return "add the numbers", str(sum(numbers)), list(map(str, numbers)), pixels


def read(rng):
    cells = sorted(rng.sample(range(GRID * GRID), rng.randint(1, 6)))
    digits = [rng.randint(0, 9) for _ in cells]
    pixels = set().union(*(put(rng, DIGITS[digit], *divmod(cell, GRID))
                           for cell, digit in zip(cells, digits, strict=True)))
    return "read the digits", "".join(map(str, digits)), list(map(str, digits)), pixels


def put(rng, shape, row: int, column: int) -> set:
    """The black pixels of a shape, somewhere in a cell."""
    top, left = (CELL * at + rng.randint(0, CELL - n) for at, n in (
        (row, len(shape)), (column, len(shape[0]))))
    return {(top + y, left + x) for y, line in enumerate(shape) for x, pixel in enumerate(line)
            if pixel == "#"}


DRAW = {"count": count, "bars": bars, "arrow": arrow, "add": add, "read": read}
