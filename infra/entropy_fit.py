"""The command line of entropy.py: R = -a * exp(H) + b of runs, a line each."""

import entropy
from infra import arguments
from infra.read_run import read_run
from infra.terminal import echo


def fit_of(folder: str) -> str:
    """The fit of a run in a line. R is the accuracy of the responses of a step, H their entropy.
    Raises UserError or ValueError, which name the run."""
    metrics = read_run(folder).metrics
    pairs = [(line["entropy"], line["accuracy"]) for line in metrics
             if isinstance(line.get("entropy"), float) and isinstance(line.get("accuracy"), float)]
    try:
        a, b, r2 = entropy.fit(*zip(*pairs, strict=True)) if pairs else entropy.fit([], [])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return (f"{folder}: R = {-a:.3f} * exp(H) + {b:.3f}, R2 {r2:.3f}, {len(pairs)} steps; "
            f"at H = 0 the accuracy would be {b - a:.3f}")


def main(argv=None) -> int:
    """The command line. Returns the exit code."""
    parser = arguments.Parser(
        "entropy.py", description="Fits accuracy = -a * exp(entropy) + b to the steps of each run "
                                  "(2505.22617).")
    parser.add_argument("runs", nargs="+", type=arguments.path, metavar="RUN",
                        help="folder of a run, such as runs/NAME")

    def work(args):
        for run in args.runs:
            echo(fit_of(run))
    return arguments.run(parser, argv, work)
