"""The command line of a trained run: ask it a question, or score it on a file of problems.

    python sample.py --run runs/NAME "47*6+85=?"
"""

import argparse
import codecs
import json
import sys

import evaluate
import tokenizer
import verify
from engine.sampler import generate


def main(argv=None) -> int:
    """The command line of sample.py: one question, answered as it is written, or a file of
    problems, scored."""
    parser = argparse.ArgumentParser("sample.py", description="Asks a trained run.")
    parser.add_argument("question", nargs="?", help='such as "47*6+85=?"')
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--problems", help="JSONL of question and answer: prints one JSON line")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="the likeliest tokens alone; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="the fewest tokens that hold this "
                        "share of the probability")
    parser.add_argument("--max-new-tokens", type=int, help="default: as in training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        if (args.question is None) == (args.problems is None):
            raise ValueError("give either a question or --problems FILE")
        policy, settings = evaluate.load_run(args.run)
        longest, how = settings["max_new_tokens"], dict(top_k=args.top_k, top_p=args.top_p)
        if args.max_new_tokens is not None:
            longest = args.max_new_tokens
        if args.question is not None:
            reader = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be 4 tokens

            def show(token):
                if token not in tokenizer.STOPS:
                    print(reader.decode(tokenizer.decode_bytes([token])), end="", flush=True)
            generate(policy, [tokenizer.encode_prompt(args.question)], 1, longest, args.temperature,
                     args.seed, on_token=show, **evaluate.stop_conditions(policy), **how)
            print(reader.decode(b"", final=True))
            return 0
        problems = evaluate.read_problems(args.problems, settings)
        rollout, texts = evaluate.sample_responses(policy, problems, 1, args.temperature,
                                                   args.seed, longest, **how)
    except (ValueError, OSError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        return 2
    result = evaluate.proportion(verify.written_correct(p, t)
                                 for p, t in zip(problems, texts, strict=True))
    print(json.dumps({"accuracy": result["value"], "ci": result["ci"], "n": result["n"],
                      "length": float(rollout.mask.sum(1).mean()),
                      "truncated": float(rollout.truncated.float().mean())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
