from synthagent.demo.conversation import as_text, conversation
from synthagent.worlds.engine import compile_world
from synthagent.worlds.plans import run_plan
from synthagent.worlds.rubric import judge
from tests.example_task import example_task


def test_a_conversation_shows_calls_facts_and_the_verdict_with_its_evidence() -> None:
    task = example_task()
    image = compile_world(task.world)
    events = run_plan(image, task, task.gold_plans[0])
    shown = as_text(conversation(task, events, judge(task, image, events, "paper")), width=200)
    for part in (
        task.instruction,
        task.restriction.text,
        "day of play: sunday",
        "book_court",
        "[reveals day]",
        "reward 1.000 (paper)",
        *(criterion.description for criterion in task.criteria),
    ):
        assert part in shown
