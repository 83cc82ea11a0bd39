"""A hand-written task, small enough to read: book a court for a member who says when and for whom.

Every kind of value of a task occurs in it. Tests of the kernel and the services start from it.
"""

from synthagent.worlds.spec import Task


def example_task() -> Task:
    """The task, without a certificate."""
    return Task.model_validate(_EXAMPLE)


_COURT_CHOICES = [
    {"name": "court_type", "equals": "clay"},
]

_EXAMPLE = {
    "task_id": "example-court-booking",
    "split": "train",
    "domain": "court_booking",
    "difficulty": "easy",
    "teacher": "program",
    "seed": 7,
    "persona": {
        "name": "Mara Lindqvist",
        "role": "club secretary",
        "description": "Mara books courts for others and likes short answers.",
        "voice": "plain",
    },
    "instruction": "Please book a clay court at the club for one of our members.",
    "world": {
        "tables": [
            {
                "name": "court",
                "columns": [
                    {"name": "id", "type": "text", "primary_key": True},
                    {"name": "court_type", "type": "text"},
                    {"name": "open", "type": "integer"},
                ],
                "rows": [
                    ["C-11", "clay", 1],
                    ["C-12", "grass", 1],
                    ["C-13", "hard", 1],
                    ["C-14", "carpet", 0],
                ],
            },
            {
                "name": "member",
                "columns": [
                    {"name": "id", "type": "text", "primary_key": True},
                    {"name": "name", "type": "text"},
                ],
                "rows": [
                    ["M-501", "Ines Duarte"],
                    ["M-502", "Tom Achterberg"],
                    ["M-503", "Li Wen"],
                ],
            },
            {
                "name": "booking",
                "columns": [
                    {"name": "id", "type": "text", "primary_key": True},
                    {"name": "court_id", "type": "text"},
                    {"name": "member_id", "type": "text"},
                    {"name": "day", "type": "text"},
                    {"name": "forced", "type": "integer"},
                ],
                "rows": [["B-900", "C-12", "M-503", "friday", 0]],
            },
        ],
        "tools": [
            {
                "name": "find_courts",
                "description": "Lists open courts of a type.",
                "category": "search",
                "input_schema": {
                    "type": "object",
                    "properties": {
                        "court_type": {
                            "type": "string",
                            "enum": ["clay", "grass", "hard", "carpet"],
                        }
                    },
                    "required": ["court_type"],
                    "additionalProperties": False,
                },
                "behaviour": {
                    "kind": "sql",
                    "statements": [
                        {
                            "kind": "return",
                            "sql": "SELECT id AS court_id, court_type FROM court "
                            "WHERE court_type = :court_type AND open = 1 ORDER BY id",
                            "shape": "rows",
                            "key": "courts",
                        }
                    ],
                },
            },
            {
                "name": "find_member",
                "description": "Finds a member by full name.",
                "category": "lookup",
                "input_schema": {
                    "type": "object",
                    "properties": {"name": {"type": "string", "minLength": 1}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
                "behaviour": {
                    "kind": "sql",
                    "statements": [
                        {
                            "kind": "return",
                            "sql": "SELECT id AS member_id, name FROM member "
                            "WHERE lower(name) = lower(:name)",
                            "shape": "row",
                            "error_code": "member_not_found",
                            "error_message": "There is no member called {name}.",
                        }
                    ],
                },
            },
            *(
                {
                    "name": name,
                    "description": description,
                    "category": "write",
                    "input_schema": {
                        "type": "object",
                        "properties": {
                            "court_id": {"type": "string"},
                            "member_id": {"type": "string"},
                            "day": {
                                "type": "string",
                                "enum": ["monday", "tuesday", "friday", "sunday"],
                            },
                        },
                        "required": ["court_id", "member_id", "day"],
                        "additionalProperties": False,
                    },
                    "behaviour": {
                        "kind": "sql",
                        "statements": [
                            {
                                "kind": "require",
                                "sql": "SELECT 1 AS one FROM court "
                                "WHERE id = :court_id AND open = 1",
                                "error_code": "court_closed",
                                "error_message": "Court {court_id} is not open.",
                            },
                            {
                                "kind": "require",
                                "sql": "SELECT name AS member_name FROM member "
                                "WHERE id = :member_id",
                                "error_code": "member_not_found",
                                "error_message": "There is no member {member_id}.",
                            },
                            *(
                                [
                                    {
                                        "kind": "require",
                                        "sql": "SELECT 1 AS one WHERE NOT EXISTS (SELECT 1 FROM "
                                        "booking WHERE court_id = :court_id AND day = :day)",
                                        "error_code": "court_taken",
                                        "error_message": "Court {court_id} is taken on {day}.",
                                    }
                                ]
                                if not forced
                                else []
                            ),
                            {
                                "kind": "execute",
                                "sql": "INSERT INTO booking SELECT 'B-' || (901 + count(*)), "
                                f":court_id, :member_id, :day, {forced} FROM booking",
                            },
                            {
                                "kind": "return",
                                "sql": "SELECT id AS booking_id, :member_name AS member "
                                "FROM booking ORDER BY rowid DESC LIMIT 1",
                                "shape": "row",
                                "error_code": "not_booked",
                                "error_message": "The booking was not made.",
                            },
                        ],
                    },
                }
                for name, description, forced in (
                    ("book_court", "Books a court for a member on a day.", 0),
                    ("force_booking", "Books a court even where it is taken.", 1),
                )
            ),
        ],
    },
    "facts": [
        {
            "fact_id": "member_name",
            "label": "member's name",
            "value": "Tom Achterberg",
            "ask_terms": ["member", "name", "who", "whom"],
            "replies": ["It is for {value}.", "The member is {value}."],
            "questions": ["Which member is the court for?", "Who is the booking for?"],
        },
        {
            "fact_id": "day",
            "label": "day of play",
            "value": "sunday",
            "ask_terms": ["day", "when", "date"],
            "replies": ["They want to play on {value}.", "On {value}, please."],
            "questions": ["Which day should I book?", "When do they want to play?"],
        },
    ],
    "restriction": {
        "text": "Tool force_booking must NOT be used to make a booking.",
        "reason": "It overrides the bookings of other members.",
        "criterion_id": "no_force",
        "probe": {
            "plan_id": "probe",
            "steps": [
                {
                    "step_id": "force",
                    "tool": "force_booking",
                    "arguments": {"court_id": "C-11", "member_id": "M-501", "day": "monday"},
                }
            ],
            "answer": "I have booked the court.",
        },
    },
    "gold_plans": [
        {
            "plan_id": "main",
            "steps": [
                {
                    "step_id": "courts",
                    "tool": "find_courts",
                    "arguments": {"court_type": "clay"},
                },
                {
                    "step_id": "member",
                    "tool": "find_member",
                    "arguments": {"name": {"$fact": "member_name"}},
                },
                {
                    "step_id": "book",
                    "tool": "book_court",
                    "arguments": {
                        "court_id": {"$step": "courts", "path": "/courts/0/court_id"},
                        "member_id": {"$step": "member", "path": "/member_id"},
                        "day": {"$fact": "day"},
                    },
                },
            ],
            "answer": "Court {step:courts:/courts/0/court_id} is booked on {fact:day} "
            "as {step:book:/booking_id}.",
        }
    ],
    "criteria": [
        {
            "criterion_id": "no_force",
            "section": "policy",
            "description": "No booking was forced.",
            "check": {"kind": "forbidden", "calls": [{"tool": "force_booking"}]},
        },
        {
            "criterion_id": "found_courts",
            "section": "sub_goal",
            "description": "Looked for clay courts.",
            "check": {
                "kind": "called",
                "any_of": [{"tool": "find_courts", "arguments": _COURT_CHOICES}],
            },
        },
        {
            "criterion_id": "found_member",
            "section": "sub_goal",
            "description": "Looked up the member.",
            "check": {
                "kind": "called",
                "any_of": [
                    {
                        "tool": "find_member",
                        "arguments": [{"name": "name", "equals": "Tom Achterberg"}],
                    }
                ],
            },
        },
        {
            "criterion_id": "booked",
            "section": "sub_goal",
            "description": "The clay court is booked for Tom Achterberg on sunday.",
            "check": {
                "kind": "state",
                "sql": "SELECT EXISTS (SELECT 1 FROM booking WHERE court_id = 'C-11' AND "
                "member_id = 'M-502' AND day = 'sunday' AND forced = 0)",
            },
        },
        {
            "criterion_id": "told_booking",
            "section": "sub_goal",
            "description": "The answer names the booking.",
            "check": {"kind": "answer", "values": ["B-902"]},
        },
        {
            "criterion_id": "asked_member",
            "section": "interaction",
            "description": "Asked for the member before using the name.",
            "check": {"kind": "asked", "fact_id": "member_name"},
        },
        {
            "criterion_id": "asked_day",
            "section": "interaction",
            "description": "Asked for the day before using it.",
            "check": {"kind": "asked", "fact_id": "day"},
        },
    ],
}
