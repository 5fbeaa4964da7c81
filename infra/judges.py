"""Files of reward models: preference pairs in, reward_model.pt and reward_model.json out.

The command line of reward_model.py. A tenth of the prompts, chosen by a hash, is held out to
measure the model on.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import evaluate
import model as gpt
import reward_model
from infra import arguments, files, run_dir, tensors

NAME = "reward_model.pt"
FIELDS = ("prompt", "chosen", "rejected")


def save(run, judge: reward_model.Judge) -> None:
    """Writes a Judge as RUN/reward_model.pt. It needs no other file of the run."""
    first = judge.ensembles[0].members[0].trunk.config
    tensors.save(Path(run) / NAME, {"config": asdict(first), "ensembles": [
        {"reads": ensemble.members[0].reads, "spread_coef": ensemble.spread_coef,
         "members": [member.state_dict() for member in ensemble.members]}
        for ensemble in judge.ensembles]})


def load(run, device: str = "cpu") -> reward_model.Judge:
    """The Judge of a run, frozen. Raises ValueError where there is none, or one of another
    version."""
    path = Path(run) / NAME
    mend = f"; python reward_model.py --run {run} --pairs FILE makes "
    if not path.exists():
        raise ValueError(f"{run} has no {NAME}{mend}one")
    content = tensors.load(path, mend=f"{mend}it again")
    try:
        trunk, ensembles = gpt.GPT(gpt.Config(**content["config"])).to(device), []
        for part in content["ensembles"]:
            members = [reward_model.RewardModel(trunk, part["reads"]) for _ in part["members"]]
            for member, state in zip(members, part["members"], strict=True):
                member.load_state_dict(state)
            ensembles.append(reward_model.Ensemble(members, part["spread_coef"]))
        return reward_model.Judge(*ensembles).requires_grad_(False)
    except (RuntimeError, TypeError, LookupError, AttributeError):  # other names, shapes, types
        raise ValueError(f"{path} does not fit this version{mend}it again") from None


def measure(judge, tokenizer, pairs) -> dict:
    """Accuracy and calibration of an Ensemble or a Judge on pairs (question, chosen, rejected)."""
    questions, *sides = zip(*pairs, strict=True)
    chosen, rejected = (judge.scores(tokenizer, questions, texts) for texts in sides)
    return {"pairs": len(pairs), "loss": float(reward_model.pair_loss(chosen, rejected)),
            "accuracy": reward_model.accuracy(chosen, rejected),
            **reward_model.calibration(chosen, rejected)}


def read_pairs(path: str) -> list[tuple]:
    """(prompt, chosen, rejected) of each line of a JSONL file. Raises ValueError that names the
    line at fault."""
    pairs = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        row = files.parse_json_object(line, f"{path}, line {number},")
        pair = tuple(row.get(name) for name in FIELDS)
        if not all(isinstance(text, str) and text for text in pair):
            raise ValueError(f"{path}, line {number}: a pair has the entries prompt, chosen and "
                             "rejected, three texts that are not empty")
        pairs.append(pair)
    return pairs


def split(pairs: list[tuple]) -> tuple[list, list]:
    """(training pairs, held-out pairs): one prompt in ten is held out, by its hash."""
    sides = [], []
    for pair in pairs:
        digest = hashlib.blake2b(pair[0].encode(errors="surrogatepass")).digest()
        sides[digest[0] % 10 == 0].append(pair)
    return sides


def main(argv=None) -> int:
    parser = arguments.Parser("reward_model.py",
                              description=reward_model.__doc__.split("\n\n")[0])
    add = parser.add_argument
    arguments.add_run(parser)
    add("--pairs", required=True, type=arguments.path,
        help="JSONL file with prompt, chosen and rejected on each line")
    add("--reads", default="whole", choices=reward_model.READS,
        help="what the model reads: the whole response, or its answer alone (default: whole)")
    add("--members", type=arguments.integer(1), default=1,
        help="reward models of the ensemble (default: 1)")
    add("--spread-coef", type=arguments.number(0), default=0.0,
        help="weight of the standard deviation over the members, which the reward loses "
             "(default: 0)")
    add("--epochs", type=arguments.integer(1), default=2,
        help="passes over the pairs (default: 2)")
    add("--lr", type=arguments.number(above=0),
        help="learning rate (default: 1e-3, for a pretrained policy 1e-4)")
    return arguments.run(parser, argv, work)


def work(args) -> None:
    """Trains a reward model on the pairs of a file, measures it and writes both files."""
    run_dir.tune_malloc()
    if args.spread_coef and args.members < 2:
        raise ValueError("--spread-coef needs --members of at least 2")
    pairs, held_out = split(read_pairs(args.pairs))
    if not pairs or not held_out:
        raise ValueError(f"{args.pairs} has {len(pairs)} training pairs and {len(held_out)} "
                         "held-out pairs; both sides need some, so add pairs of other prompts")
    policy, tokenizer, settings = evaluate.load_run(args.run)
    lr = args.lr or (1e-4 if settings.get("init") else 1e-3)
    ensemble = reward_model.train_ensemble(
        policy, tokenizer, pairs, args.reads, args.members, args.spread_coef, args.seed,
        epochs=args.epochs, lr=lr)
    result = {"pairs": len(pairs), "reads": args.reads, "members": args.members,
              "held_out": measure(ensemble, tokenizer, held_out)}
    save(args.run, reward_model.Judge(ensemble))
    run_dir.write_json(Path(args.run) / "reward_model.json", result)
    print(json.dumps(result))
