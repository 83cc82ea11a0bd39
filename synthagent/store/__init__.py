"""What is kept: tables, migrations, and the one way to read and write them.

`database` runs reads and group-committed writes, `tables` holds the schema, `migrations` brings a
database to it, `requests` makes mutations idempotent, `tasks` holds certified tasks.
"""

from synthagent.store.database import Store
from synthagent.store.requests import once
from synthagent.store.schema import check_current, downgrade, upgrade
from synthagent.store.tasks import TaskCache

__all__ = ["Store", "TaskCache", "check_current", "downgrade", "once", "upgrade"]
