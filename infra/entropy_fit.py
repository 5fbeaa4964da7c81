"""The command line of entropy.py: the fit R = -a * exp(H) + b of each run, on a line."""

import entropy
from infra import arguments
from infra.read_run import read_run
from infra.terminal import echo


def fit_of(folder: str) -> str:
    """The fit of a run as a line of text. R is the accuracy of a step's responses, H their entropy
    in nats per token. Raises UserError or ValueError, which name the run."""
    metrics = read_run(folder).metrics  # a dict per step
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
