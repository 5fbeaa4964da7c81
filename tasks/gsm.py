"""Task gsm: word problems of grade-school arithmetic, made from templates.

A template is (question, ranges, steps). In the question {n} {m} stand for two names, {x} {y} for
two items, and {a} to {e} for numbers. The ranges are inclusive. The steps are one to four binary
operations; the last one has no name and gives the answer. A number that no step uses is a
distraction. Templates in HELD_OUT are never trained on.
"""

import re

import verify
from grading.expression import calculate
from tasks.base import EQUATION, MAX_VALUE, NEW, SEEN, Problem, Task

NAMES = ["Amy", "Ann", "Ben", "Dan", "Eva", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe"]
ITEMS = ["apples", "balls", "beads", "bells", "cards", "coins", "cups", "dolls", "hats", "keys",
         "lamps", "masks", "nuts", "pears", "pens", "plums", "rocks", "shells", "stamps", "toys"]

TEMPLATES = [
    # one step
    ("{n} has {a} {x} and {m} has {b} {x}. How many {x} do {n} and {m} have together?",
     "a2-50 b2-50", "a+b"),
    ("There are {a} {x} in a box. {n} takes {b} of them home. How many {x} are left in the box?",
     "a10-60 b2-40", "a-b"),
    ("A shop sells {x} for {a} dollars each. How many dollars do {b} {x} cost?",
     "a2-9 b2-20", "a*b"),
    ("{n} shares {a} {x} equally among {b} friends. How many {x} does each friend get?",
     "a6-72 b2-9", "a/b"),
    ("{n} runs {a} miles on Monday, {b} miles on Tuesday and {c} miles on Friday. "
     "How many more miles does {n} run on Monday than on Tuesday?",
     "a5-30 b2-20 c2-30", "a-b"),
    ("A train goes {a} miles every hour. How many miles does the train go in {b} hours?",
     "a10-60 b2-9", "a*b"),
    ("{n} is {a} years old. {m} is {b} years older than {n}. How old is {m}?",
     "a3-40 b2-30", "a+b"),
    ("In {b} days {n} reads {a} pages, the same number of pages each day. "
     "How many pages per day is that?",
     "a10-90 b2-9", "a/b"),
    ("In a bag are {a} red {x}, {b} blue {x} and {c} green {x}. "
     "How many of the {x} are red or blue?",
     "a2-40 b2-40 c2-40", "a+b"),
    ("A dog weighs {a} pounds. A cat weighs {b} pounds less than the dog. "
     "How many pounds does the cat weigh?",
     "a15-50 b2-14", "a-b"),
    ("{n} walks {a} miles every day. How many miles does {n} walk in a week?",
     "a2-20", "a*7"),
    ("A bike that is {c} years old costs {a} dollars. {n} has {b} dollars. "
     "How many more dollars does {n} need for the bike?",
     "a20-90 b5-60 c2-12", "a-b"),
    ("{n} puts {a} {x} in bags, with {b} {x} in each bag. How many bags does {n} fill?",
     "a8-80 b2-9", "a/b"),
    ("A farm has {a} cows and twice as many hens as cows. {n} works on the farm {b} hours a day. "
     "How many hens does the farm have?",
     "a3-40 b2-9", "a*2"),
    ("{b} people are at a show that is {a} hours long. How many minutes long is the show?",
     "a2-9 b10-50", "a*60"),
    ("{n} has {a} {x}. Then {m} gives {n} {b} more {x} and {c} {y}. "
     "How many {x} does {n} have now?",
     "a2-50 b2-40 c2-40", "a+b"),
    # two steps
    ("{n} buys {a} boxes of {x}. Each box holds {b} {x}. {n} gives {c} of these {x} to {m}. "
     "How many of these {x} does {n} have left?",
     "a2-9 b3-12 c2-20", "t=a*b; t-c"),
    ("With {c} dollars {n} goes to a shop and buys {a} {x} for {b} dollars each. "
     "How many dollars does {n} have after that?",
     "a2-7 b2-7 c20-60", "t=a*b; c-t"),
    ("{n} finds {a} {x} in the morning and {b} {x} in the evening, then puts all of them in {c} "
     "equal piles. How many {x} are in each pile?",
     "a5-40 b5-40 c2-9", "t=a+b; t/c"),
    ("{m} has {b} more {x} than {n}, and {n} has {a} {x}. How many {x} do they have together?",
     "a2-40 b2-20", "t=a+b; t+a"),
    ("{n} earns {a} dollars an hour. On Monday {n} works {b} hours and on Tuesday {c} hours. "
     "How many dollars does {n} get for the two days?",
     "a6-20 b2-4 c2-5", "t=b+c; a*t"),
    ("A bus has {a} people on it. Then {b} people get off and {c} people get on. "
     "How many people are on the bus now?",
     "a8-50 b2-30 c2-20", "t=a-b; t+c"),
    ("{m} is twice as old as {n}, and {n} is {a} years old. How old will {m} be in {b} years?",
     "a4-30 b2-20", "t=a*2; t+b"),
    ("{n} has {c} dollars, saves {a} dollars each week and will buy a bike that costs {b} dollars. "
     "In how many weeks can {n} buy the bike?",
     "a2-9 b30-90 c4-25", "t=b-c; t/a"),
    ("A box weighs {c} pounds. With {a} equal rocks in it, the box weighs {b} pounds. "
     "How many pounds does each of the rocks weigh?",
     "a2-9 b20-80 c2-9", "t=b-c; t/a"),
    ("A room has {d} windows and {a} rows of {b} chairs. If {c} of the chairs are empty, "
     "how many chairs are in use?",
     "a2-9 b3-12 c2-20 d2-9", "t=a*b; t-c"),
    ("Half of the {a} {x} in a bag are red. {n} puts {b} more red {x} and {c} {y} in the "
     "bag. How many red {x} are in the bag now?",
     "a8-60 b2-30 c2-20", "t=a/2; t+b"),
    ("{n} bakes {a} dozen cookies, and the children eat {b} cookies. How many cookies are left?",
     "a2-8 b2-20", "t=a*12; t-b"),
    ("{n} drives for {b} hours at {a} miles per hour and then walks {c} miles. "
     "How many miles long is the whole trip?",
     "a10-60 b2-6 c2-9", "t=a*b; t+c"),
    ("Today {n} is at school for {a} hours and {b} minutes. How many minutes is that?",
     "a4-9 b5-55", "t=a*60; t+b"),
    ("{n} buys {a} {x} for {b} dollars each and a bag of {c} {y} for {d} dollars. "
     "How many dollars does {n} pay in all?",
     "a2-9 b2-15 c3-30 d2-30", "t=a*b; t+d"),
    ("A market with {c} tables sells {a} {x} on Monday. On Tuesday it sells {b} fewer {x} than on "
     "Monday. How many {x} does it sell on both days?",
     "a8-50 b2-30 c4-9", "t=a-b; t+a"),
    ("There are {b} {x} on each of {a} tables. {c} children share all of these {x} equally. "
     "How many {x} does each child get?",
     "a2-9 b2-12 c2-9", "t=a*b; t/c"),
    ("A machine cleans {a} {x} in {b} minutes. "
     "At that rate, how many {x} does it clean in {c} minutes?",
     "a6-60 b2-9 c2-9", "t=a/b; t*c"),
    ("{n} cuts a rope of {a} feet into {b} equal parts. Then {n} cuts {c} feet off one part. "
     "How many feet long is that part now?",
     "a20-90 b2-6 c2-9", "t=a/b; t-c"),
    ("From {a} dollars, {n} spends {b} dollars on lunch and {c} dollars on a book of {d} pages. "
     "How many dollars are left?",
     "a30-80 b5-20 c4-20 d20-90", "t=a-b; t-c"),
    # three steps
    ("In a room are {a} tables for {b} people each and {c} tables for {d} people each. "
     "How many people can sit at all these tables?",
     "a2-9 b2-12 c2-9 d2-12", "t=a*b; u=c*d; t+u"),
    ("From {a} {x}, {n} gives half to {m}. Later {n} loses {b} {x} but then finds {c} {x}. "
     "How many {x} does {n} have at the end?",
     "a8-80 b2-20 c2-20", "t=a/2; u=t-b; u+c"),
    ("{n} packs {a} {x} an hour and {m} packs {b} {x} an hour. They both work for {c} hours and "
     "then sell {d} of these {x}. How many of these {x} are left?",
     "a3-20 b3-20 c2-8 d5-50", "t=a+b; u=t*c; u-d"),
    ("{n} sells {a} {x} for {b} dollars each, spends {c} dollars of this money and shares the rest "
     "equally with {m}. How many dollars does {m} get?",
     "a2-9 b3-15 c2-30", "t=a*b; u=t-c; u/2"),
    ("{n} is {a} years old, and {m} is {b} years younger than {n}. The father of {m} is {c} times "
     "as old as {m}. How many years older than {n} is the father?",
     "a12-18 b2-4 c3-5", "t=a-b; u=t*c; u-a"),
    ("A farm has {e} cows and {a} rows of {b} trees. {n} cuts down {c} of the trees and then adds "
     "{d} new trees. How many trees does the farm have now?",
     "a2-9 b4-12 c2-30 d2-30 e2-40", "t=a*b; u=t-c; u+d"),
    ("{n} lives {a} miles from work, and {m} lives {d} miles from work. On {b} days each week {n} "
     "rides to work and back. How many miles does {n} ride to work and back in {c} weeks?",
     "a2-9 b2-5 c2-6 d2-20", "t=a*2; u=t*b; u*c"),
    ("A tank that holds {a} gallons has {b} gallons of water in it. Each minute {n} adds {c} "
     "gallons and {d} gallons leak out. In how many minutes will the tank be full?",
     "a30-90 b5-25 c4-12 d2-6", "t=a-b; u=c-d; t/u"),
    ("A book has {a} pages. {n} reads {b} pages a day for {c} days, and then the rest in {d} days "
     "with the same number of pages each day. How many pages does {n} read on the last day?",
     "a60-120 b5-15 c2-5 d2-6", "t=b*c; u=a-t; u/d"),
    ("{n} works {a} minutes on each of the 5 school days and {b} minutes on each of the other "
     "2 days of the week. How many minutes does {n} work in one week?",
     "a10-60 b10-90", "t=a*5; u=b*2; t+u"),
    ("A cart can carry {a} pounds. {n} puts {b} bags of {c} pounds each and one box of {d} "
     "pounds on it. How many more pounds can the cart carry?",
     "a60-150 b2-5 c5-15 d5-25", "t=b*c; u=a-t; u-d"),
    ("{n} has {a} {x}, and {m} has {b} fewer {x} than twice as many as {n}. "
     "How many {x} do the two of them have in all?",
     "a5-40 b2-30", "t=a*2; u=t-b; u+a"),
    ("{n} has {a} dozen eggs, but {b} eggs break. The good eggs go in cartons of {c} eggs each. "
     "How many cartons does {n} fill?",
     "a2-8 b2-20 c2-9", "t=a*12; u=t-b; u/c"),
    ("Lunch for {a} friends costs {b} dollars in all. They also buy drinks for {c} dollars and a "
     "cake for {d} dollars, eat for {e} minutes and share the whole cost equally. "
     "How many dollars does each friend pay?",
     "a2-6 b10-50 c4-30 d4-20 e20-60", "t=b+c; u=t+d; u/a"),
    ("A shirt costs {a} dollars, and a coat costs {b} dollars more than the shirt. {n} has {c} "
     "dollars, {m} has {d} dollars. {n} buys both for {m}. How many dollars does {n} have left?",
     "a5-25 b5-25 c50-99 d2-50", "t=a+b; u=a+t; c-u"),
    ("A class has {a} girls and {b} boys. The teacher makes teams of {c} students and gives "
     "{d} {x} to each team. How many {x} do the teams get in all?",
     "a6-24 b6-24 c2-8 d2-9", "t=a+b; u=t/c; u*d"),
    # four steps
    ("Tickets cost {a} dollars each for adults and {b} dollars each for children. A family of {c} "
     "adults and {d} children has {e} dollars. After they buy tickets for all of them, how many "
     "dollars are left?",
     "a6-12 b2-6 c2-4 d2-5 e50-99", "t=a*c; u=b*d; v=t+u; e-v"),
    ("{n} works {b} hours a day for {c} days and earns {a} dollars per hour. {n} pays {d} dollars "
     "for food and saves half of the rest. How many dollars does {n} save?",
     "a5-12 b2-8 c2-5 d10-60", "t=a*b; u=t*c; v=u-d; v/2"),
    ("On Monday {n} drinks {a} cups of water, on Tuesday twice as many as on Monday, and on Friday "
     "{b} more than on Tuesday. How many cups of water is that in all?",
     "a2-20 b2-15", "t=a*2; u=t+b; v=a+t; v+u"),
    ("There are {a} birds and {e} boats on a lake. Half of the birds fly away, and then {b} birds "
     "come. Later {c} birds leave and {d} birds come. "
     "How many birds are on the lake at the end?",
     "a8-60 b2-20 c2-30 d2-20 e2-12", "t=a/2; u=t+b; v=u-c; v+d"),
    ("{n} has {a} hours before bed. Math takes {b} minutes, and a book takes twice as long as "
     "math. How many minutes does {n} have left for games?",
     "a2-5 b10-50", "t=a*60; u=b*2; v=b+u; t-v"),
    ("{n} rides {a} miles per hour for {b} hours. {m} rides {c} more miles per hour than {n} for "
     "the same number of hours. How many miles do they ride in all?",
     "a8-20 b2-6 c2-9", "t=a+c; u=a*b; v=t*b; u+v"),
    ("A teacher has {a} bags of {b} {x} and {c} boxes of {d} {x}. {e} students share all the {x} "
     "equally. How many {x} does each student get?",
     "a2-6 b3-12 c2-6 d3-12 e2-8", "t=a*b; u=c*d; v=t+u; v/e"),
    ("A farm has {a} cows, {b} hens and {d} trees. The cows have 4 legs each, the hens have 2 legs "
     "each. {n} sells {c} of the hens. How many legs do the cows and the other hens have in all?",
     "a3-20 b10-40 c2-20 d5-50", "t=a*4; u=b-c; v=u*2; t+v"),
    ("Each week {n} earns {a} dollars and spends {b} of them. After {c} weeks {n} pays {d} dollars "
     "for a shirt and all the rest for {x} that cost {e} dollars each. How many {x} does {n} buy?",
     "a8-20 b2-7 c2-9 d5-20 e2-6", "t=a-b; u=t*c; v=u-d; v/e"),
    ("{n} can clean {a} {x} in {b} minutes, and {m} can clean {c} {x} in {d} minutes. "
     "If they work together for {e} minutes, how many {x} do they clean?",
     "a4-40 b2-4 c4-40 d2-4 e2-9", "t=a/b; u=c/d; v=t+u; v*e"),
    ("In {e} hours {n} bakes {a} dozen pies, gives {b} away and sells the rest for {c} dollars "
     "each. From this money {n} pays {d} dollars for eggs. How many dollars are left?",
     "a2-6 b2-20 c2-6 d5-40 e2-9", "t=a*12; u=t-b; v=u*c; v-d"),
    ("{n} is {a} years old, and {m} is {c} times as old. "
     "What will the sum of their ages be in {b} years?",
     "a4-15 b2-20 c2-5", "t=a*c; u=a+b; v=t+b; u+v"),
]

HELD_OUT = [
    # one step
    ("A tank that is {c} feet long has {a} gallons of water in it. Then {b} gallons leak out. "
     "How many gallons are left in the tank?",
     "a20-90 b2-40 c3-12", "a-b"),
    ("Each of the {a} students in a class has {b} {x}. How many {x} does the class have?",
     "a10-30 b2-9", "a*b"),
    ("{n} pays {a} dollars in all for {b} {x} of equal cost. "
     "How many dollars does each of the {x} cost?",
     "a8-80 b2-9", "a/b"),
    ("{n} pays {a} dollars for lunch and has {b} dollars left. "
     "How many dollars does {n} have before lunch?",
     "a5-50 b5-50", "a+b"),
    # two steps
    ("{m} has {a} {x} and {c} {y}. {n} has {b} times as many {x} as {m}. "
     "How many more {x} than {m} does {n} have?",
     "a3-20 b2-9 c2-30", "t=a*b; t-a"),
    ("On a trip {a} girls and {b} boys fill boats, with {c} children in each of the boats. "
     "How many boats do they fill?",
     "a4-20 b10-50 c2-8", "t=a+b; t/c"),
    ("{n} reads a book of {a} pages at a rate of {b} pages per day. Then {n} works for {c} "
     "days. How many days is that in all?",
     "a20-90 b2-9 c2-20", "t=a/b; t+c"),
    ("A bike costs {d} dollars. {n} has {c} dollars and then saves {a} dollars every week for {b} "
     "weeks. How many dollars does {n} have after that?",
     "a2-15 b2-9 c5-50 d90-200", "t=a*b; t+c"),
    # three steps
    ("On a cart that weighs {e} pounds are {a} bags of {b} pounds each and {c} boxes of {d} pounds "
     "each. How many pounds do the bags and boxes weigh together?",
     "a2-6 b3-15 c2-6 d3-15 e20-60", "t=a*b; u=c*d; t+u"),
    ("Each day {n} spends {a} dollars on lunch and {b} dollars on the bus. "
     "From {d} dollars, how many dollars are left after {c} days?",
     "a4-12 b2-6 c2-5 d50-99", "t=a+b; u=t*c; d-u"),
    ("{n} has {a} cookies, sells {b} of them and gives {c} cookies to {m}. {d} children share the "
     "rest equally. How many cookies does each child get?",
     "a30-90 b2-12 c2-12 d2-9", "t=a-b; u=t-c; u/d"),
    ("{n} has {a} {x} and {m} has {b} {x}. They fill bags of {c} with all of these {x} and "
     "sell each bag for {d} dollars. How many dollars do they get in all?",
     "a8-40 b8-40 c2-9 d2-9", "t=a+b; u=t/c; u*d"),
    # four steps
    ("{n} sells {a} {x} for {b} dollars each and {c} {y} for {d} dollars each. With all of this "
     "money {n} buys tickets that cost {e} dollars each. How many tickets does {n} buy?",
     "a2-9 b2-9 c2-9 d2-9 e2-8", "t=a*b; u=c*d; v=t+u; v/e"),
    ("A machine packs {a} cartons of {b} {x}, but {c} of the {x} break. {n} sells the good {x} for "
     "{d} dollars each and also finds {e} dollars. How many dollars is that in all?",
     "a2-6 b4-15 c2-12 d2-6 e5-40", "t=a*b; u=t-c; v=u*d; v+e"),
    ("In a class of {a} students, {b} are at home. From {d} {x}, {n} gives {c} {x} to each of the "
     "other students and half of the rest to the teacher. How many {x} does the teacher get?",
     "a8-16 b2-6 c2-5 d40-99", "t=a-b; u=t*c; v=d-u; v/2"),
    ("{n} spends half of {a} dollars on a coat. Later {n} earns {b} dollars, loses {c} dollars on "
     "the bus and finds {d} dollars. {m} has {e} {x}. How many dollars does {n} have now?",
     "a20-90 b5-40 c2-30 d2-20 e2-30", "t=a/2; u=t+b; v=u-c; v+d"),
]


class Gsm(Task):
    """Level 1 has problems of one or two steps, level 2 of one to four. Half of the held-out
    problems are trained templates with other numbers, half are templates from HELD_OUT."""

    levels = range(1, 3)
    base_steps = 1600
    min_base_pass16 = 0.4  # three times the training did not make the base model better
    working = EQUATION
    correct = staticmethod(verify.written_correct)

    def sample_problem(self, rng, held_out):
        # 1. a template; one in ten problems of TEMPLATES is held out, so 1/11 here makes one half
        new = held_out and rng.random() < 1 / 11
        question, ranges, steps = rng.choice(HELD_OUT if new else TEMPLATES)
        steps = steps.split("; ")
        if len(steps) > 2 * self.level:
            return None
        # 2. its numbers
        values = {}
        for name, low, high in re.findall(r"([a-e])(\d+)-(\d+)", ranges):
            values[name] = rng.randint(int(low), int(high))
        key = f"{question} {sorted(values.items())}"
        # 3. its solution, whose values are positive integers up to MAX_VALUE
        solved = []
        for step in steps:
            name, x, op, y = re.fullmatch(r"(?:(\w)=)?(\w+)([-+*/])(\w+)", step).groups()
            x, y = (int(v) if v.isdigit() else values[v] for v in (x, y))
            value = calculate(x, op, y)
            if not 1 <= value <= MAX_VALUE or value != int(value):
                return None
            values[name] = int(value)
            solved.append((x, op, y, int(value)))
        # 4. its names and items
        n, m = rng.sample(NAMES, 2)
        x, y = rng.sample(ITEMS, 2)
        words = {"n": n, "m": m, "x": x, "y": y}
        text = question.format(**{k: v for k, v in values.items() if k} | words)
        return Problem(text, str(solved[-1][3]), tuple(solved), category=NEW if new else SEEN,
                       key=key)
