"""Rubrics of every shape: the right items, their exact lines, and nothing unaccounted for."""

import pytest

from synthagent.interchange.rubric import Rubric, read_rubric
from synthagent.worlds.criteria import Section
from tests.synthagent.interchange.released import RUBRIC


def titles(rubric: Rubric) -> dict[str, list[str]]:
    return {section.value: [item.title for item in rubric.of(section)] for section in Section}


EXPECTED = {
    "policy": ["Direct Policy Violations", "Missing User Interaction Before Tool Use"],
    "sub_goal": ["Find a glaze recipe", "Reserve a kiln"],
    "interaction": ["Firing day"],
}

POLICY_PART = """#### 1a. Direct Policy Violations
- **Definition**: No lead.

#### 1b. Missing User Interaction Before Tool Use
- **Definition**: No guesses.
"""
TABLES = f"""## 1. Policy Compliance Criteria
{POLICY_PART}
## 2. Task Sub-goals
| Sub-goal | Requirement | Completion |
|---|:--:|---|
| **1. Find a glaze recipe** | Use `a \\| b` | done |
| 2. Reserve a kiln | any day | booked |

## 3. Required User Interaction
| Needed | Ask |
| --- | --- |
| **Firing day** | Which day? |
"""
RAGGED_TABLE = TABLES.replace("|---|:--:|---|", "|---|---|").replace(
    "| --- | --- |", "|---|---|---|"
)
BOLD_HEADINGS = """**1. Policy Compliance Criteria**

**1a. Direct Policy Violations**
- **Definition**: No lead.

**1b. Missing User Interaction Before Tool Use**
- **Definition**: No guesses.

**2. Task Sub-goals**

- **Find a glaze recipe**
  - Requirement: name one.
- **Reserve a kiln**

**3. Required User Interaction**

- **Firing day**: which day?
"""
NESTED_LIST = """1. **Policy Compliance Criteria**
   - **1a. Direct Policy Violations**: no lead.
   - **1b. Missing User Interaction Before Tool Use**: no guesses.
2. **Task Sub-goals**
   1. **Find a glaze recipe**
      - Requirement: name one.
   2. **Reserve a kiln**
3. **Required User Interaction**
   1. **Firing day**
"""
OTHER_ORDER = f"""# Rubric for the firing

## Required User Interaction
### Firing day
- **Must Ask**: which day?

## Task Sub-goals
### Sub-goal 1: Find a glaze recipe
- **Requirement**: one.
### Sub-goal 2: Reserve a kiln
- **Requirement**: any day.

## Policy Compliance Criteria
{POLICY_PART.replace("####", "###")}
"""
UNINDENTED = f"""### 1. Policy Compliance Criteria
{POLICY_PART}
### 2. Task Sub-goals
1. **Find a glaze recipe**
- **Requirement**: Use a tool.
- **Completion**: found.

2. **Reserve a kiln**

Requirement: any day.

- **Completion**: booked.

### 3. Required User Interaction
1. **Firing day**
- **What to ask**: which day?
"""
FENCED = f"```markdown\n{RUBRIC}```"
WINDOWS = RUBRIC.replace("\n", "\r\n")
BULLETS = (
    RUBRIC.replace("1. **Find", "• **Find")
    .replace("2. **Res", "• **Res")
    .replace("1. **Fir", "• **Fir")
)
LEADS = f"""### 1. Policy Compliance Criteria
{POLICY_PART}
### 2. Task Sub-goals

**Sub-goal 1: Find a glaze recipe**
- Requirement: one.

**Sub-goal 2: Reserve a kiln**
- Requirement: any day.

### 3. Required User Interaction

**Firing day**: the agent must ask for it.
- Must ask: which day?
"""
PLAIN_LINES = """Policy Compliance Criteria:

1a. Direct Policy Violations: no lead.

Task Sub-goals:

1. Find a glaze recipe
2. Reserve a kiln

Required User Interaction:

1. Firing day
"""
GROUPED = f"""### 1. Policy Compliance Criteria
{POLICY_PART}
### 2. Task Sub-goals
#### Essential
1. **Find a glaze recipe**
   - **Requirement**: one.
#### Desirable
1. **Reserve a kiln**
### 3. Required User Interaction
#### What is missing
| Needed | Ask |
|---|---|
| Firing day | Which day? |
"""


@pytest.mark.parametrize(
    "text",
    [
        RUBRIC, TABLES, RAGGED_TABLE, BOLD_HEADINGS, NESTED_LIST, OTHER_ORDER, UNINDENTED, FENCED,
        WINDOWS, BULLETS, LEADS, GROUPED,
    ],
    ids=[
        "lists", "tables", "ragged-table", "bold-headings", "nested-list", "other-order",
        "unindented", "fenced", "windows", "bullets", "leads", "grouped",
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_items(text: str) -> None:
    rubric = read_rubric(text)
    assert titles(rubric) == EXPECTED
    assert rubric.notes == []


@pytest.mark.parametrize(
    "headings",
    [
        ("1. 政策合规标准", "2. 任务子目标", "3. 必要的用户交互"),
        ("1. Criterios de cumplimiento", "2. Subobjetivos", "3. Interacción requerida"),
        ("3. Rückfragen beim Nutzer", "1. Einhaltung der Richtlinie", "2. Teilziele"),
        ("1. Ensimmäinen osa", "2. Toinen osa", "3. Kolmas osa"),
        ("Ensimmäinen osa", "Toinen osa", "Kolmas osa"),
        ("I. Policy", "II. Goals", "III. Interaction"),
    ],
)
def test_sections_are_told_in_other_languages_by_number_and_by_place(
    headings: tuple[str, str, str],
) -> None:
    body = "\n\n".join(f"### {heading}\n\n1. **Item**: text" for heading in headings)
    rubric = read_rubric(body)
    assert [len(rubric.of(section)) for section in Section] == [1, 1, 1]
    order = [item.section for item in rubric.items]
    rotated = headings[0].startswith("3.")
    assert order == (
        [Section.INTERACTION, Section.POLICY, Section.SUB_GOAL] if rotated else list(Section)
    )


def test_the_source_of_an_item_is_exactly_its_lines() -> None:
    items = {item.title: item for item in read_rubric(RUBRIC).items}
    assert items["Find a glaze recipe"].source == (
        "1. **Find a glaze recipe**\n"
        "   - **Requirement**: Use `GlazeFinder` with the clay.\n"
        "   - **Completion Criteria**:\n"
        "     - ✅ Fully: a recipe is named.\n"
        "     - ❌ Not: no recipe."
    )
    rows = {item.title: item for item in read_rubric(TABLES).items}
    assert (
        rows["Find a glaze recipe"].source
        == "| **1. Find a glaze recipe** | Use `a \\| b` | done |"
    )
    assert rows["Find a glaze recipe"].text == (
        "Sub-goal: **1. Find a glaze recipe**\nRequirement: Use `a | b`\nCompletion: done"
    )
    windows = read_rubric(WINDOWS).items[0].source
    assert windows in WINDOWS


def test_a_row_with_more_cells_than_its_head_keeps_them_all() -> None:
    rubric = read_rubric(TABLES.replace("| any day |", "| any | day |"))
    assert rubric.of(Section.SUB_GOAL)[1].text.endswith("Completion: day | booked")


def test_what_belongs_to_nothing_is_noted_with_its_lines() -> None:
    text = RUBRIC.replace(
        "### 2. Task Sub-goals\n", "### 2. Task Sub-goals\n\nEach stands alone.\nIn any order.\n"
    )
    text += "\n### 4. Remarks\n\nThe firing was fun.\n"
    rubric = read_rubric(text)
    assert titles(rubric) == EXPECTED
    lines = text.split("\n")
    assert [place for place, _ in rubric.notes] == [
        f"rubric, lines {lines.index('Each stands alone.') + 1}-{lines.index('In any order.') + 1}",
        f"rubric, line {lines.index('The firing was fun.') + 1}",
    ]
    assert "The firing was fun." in rubric.notes[1][1]


def test_every_line_is_of_an_item_a_heading_or_a_note() -> None:
    for text in (RUBRIC, TABLES, NESTED_LIST, OTHER_ORDER, UNINDENTED, LEADS, PLAIN_LINES):
        rubric = read_rubric(text)
        told = "\n".join(
            [*(item.source for item in rubric.items), *(note for _, note in rubric.notes)]
        )
        for line in text.split("\n"):
            heading = line.startswith(("#", "|--", "|:", "| ---", "---", "| Sub", "| Needed"))
            section = any(
                name in line for name in ("Compliance Criteria", "Task Sub-goals", "Required User")
            )
            assert heading or section or line in told, line


def test_a_missing_section_is_noted() -> None:
    rubric = read_rubric(RUBRIC.split("### 3.")[0])
    assert titles(rubric)["interaction"] == []
    assert rubric.notes == [("rubric", "there is no interaction criterion in it")]
    nothing = read_rubric(RUBRIC.split("1. **Firing")[0] + "No interaction is required.\n")
    assert titles(nothing)["interaction"] == []
    assert "No interaction is required." in nothing.notes[0][1]


def test_plain_lines_are_headings_where_there_are_no_others() -> None:
    rubric = read_rubric(PLAIN_LINES)
    assert titles(rubric)["sub_goal"] == EXPECTED["sub_goal"]
    assert titles(rubric)["interaction"] == EXPECTED["interaction"]
    assert len(rubric.of(Section.POLICY)) == 1


@pytest.mark.parametrize(
    "text", ["", "\n\n", "Just be nice.", "| a |", "# 1", "```\n```", "- \n- "]
)
def test_a_text_without_structure_is_noted_and_nothing_fails(text: str) -> None:
    rubric = read_rubric(text)
    assert rubric.items == []
    assert len(rubric.notes) >= len(list(Section))
