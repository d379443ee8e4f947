"""The sink that adds messages to a table of a PostgreSQL database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.sinks.courier import Refused, Undelivered
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.sender import MOST_TRIES
from pipert_shm.sinks.settings import Secret, check_secret, read_secret
from pipert_shm.sinks.sink import Sink

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Identifier

BATCH = 100
PATIENCE = 10  # seconds that the server may take
# A server that has gone without a word is noticed after 25 s.
ALIVE: dict[str, Any] = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
COLUMNS = ("key", "camera", "kind", "phase", "rule", "zone", "label", "track_id", "score")


class PostgresSink(Sink):
    """Adds a row for each message to a table of a PostgreSQL database (the extra `postgresql`).

    The columns are `key` (the primary key), `time` (when the frame was captured), `camera`, `kind`, `phase`, `rule`, `zone`,
    `label`, `track_id`, `score`, and `body`, the whole message as `jsonb`. The table is made if it is missing. A message that
    is sent again adds no second row.

    What the database can't store, such as a text with a NUL in it, counts as refused.

    :param url: `postgresql://user@host:5432/database`, or anything else that libpq takes.
    :param password: a text, `{"env": NAME}` or `{"file": PATH}`.
    :param table: its name; with a schema's name and a point before it, if that is another one.
    :param spool, tries, grace: see `Sink`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        password: Secret | None = None,
        table: str = "events",
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name, spool=spool, tries=tries, grace=grace)
        if not isinstance(url, str) or not url:
            raise TypeError(f"url is a text such as postgresql://user@host/database, not {shown(url)}")
        check_secret("password", password)
        parts = table.split(".") if isinstance(table, str) else []
        if len(parts) not in (1, 2) or not all(parts):
            raise ValueError(f"table is a name, or schema.name, not {shown(table)}")
        self._url = url
        self._password = password
        self._table = parts

    def setup(self) -> None:
        """Reads the password, and opens the spool.

        :raises ImportError: when psycopg is not installed.
        :raises ValueError: when the address is none that libpq takes.
        :raises OSError, ValueError: when the password can't be read.
        :raises SinkError: when another process uses the spool.
        """
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise ImportError(f"psycopg is not installed ({error}): {to_install('postgresql')}") from error
        try:
            conninfo_to_dict(self._url)
        except psycopg.ProgrammingError as error:
            raise ValueError(f"url is no address of a PostgreSQL database: {error}") from None
        self._given_password = read_secret("password", self._password)
        super().setup()

    def connect(self) -> PostgresCourier:
        """Connects, and makes the table if it is missing."""
        import psycopg
        from psycopg.sql import Identifier

        secret: dict[str, Any] = {} if self._given_password is None else {"password": self._given_password}
        try:
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=PATIENCE,
                application_name="pipert_shm",
                **ALIVE,
                **secret,
            )
        except psycopg.Error as error:
            raise Undelivered(f"can't connect to PostgreSQL: {_line_of(error)}") from error
        try:
            return PostgresCourier(connection, Identifier(*self._table))
        except BaseException:
            connection.close()
            raise


class PostgresCourier:
    """A connection to the database."""

    most = BATCH

    def __init__(self, connection: psycopg.Connection, table: Identifier) -> None:
        from psycopg.sql import SQL, Literal, Placeholder

        self._connection = connection
        connection.execute(SQL("SET statement_timeout = {}").format(Literal(PATIENCE * 1000)))
        found = connection.execute("SELECT to_regclass(%s)", (table.as_string(connection),)).fetchone()
        if found is None or found[0] is None:  # CREATE asks for a right that this user may not have where the table is there
            connection.execute(
                SQL(
                    "CREATE TABLE IF NOT EXISTS {} (key text PRIMARY KEY, time timestamptz NOT NULL, camera text NOT NULL, "
                    "kind text NOT NULL, phase text, rule text, zone text, label text, track_id bigint, score float8, "
                    "body jsonb NOT NULL)"
                ).format(table)
            )
            connection.execute(SQL("CREATE INDEX IF NOT EXISTS {} ON {} (time)").format(_index_of(table), table))
        values = SQL(", ").join(Placeholder() * len(COLUMNS))
        self._insert = SQL(
            "INSERT INTO {} (" + ", ".join(COLUMNS) + ", time, body) VALUES ({}, to_timestamp(%s), %s) "
            "ON CONFLICT (key) DO NOTHING"
        ).format(table, values)

    def deliver(self, letters: Sequence[Letter]) -> None:
        """Adds their rows in one transaction."""
        import psycopg

        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(self._insert, [_row_of(letter) for letter in letters])
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
            raise Refused(f"PostgreSQL does not take the message: {_line_of(error)}") from error
        except psycopg.Error as error:
            raise Undelivered(f"PostgreSQL: {_line_of(error)}") from error

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _line_of(error: psycopg.Error) -> str:
    """Its text, in one line."""
    return " ".join(str(error).split())


def _index_of(table: Identifier) -> Identifier:
    from psycopg.sql import Identifier

    return Identifier(f"{table._obj[-1]}_by_time")


def _row_of(letter: Letter) -> tuple[Any, ...]:
    body = letter.body
    whole = {"key": letter.key, "camera": letter.camera, "kind": letter.kind}
    # A dict of a user's may have something else by these names, which stands in the body alone then.
    texts = {name: body.get(name) if isinstance(body.get(name), str) else None for name in ("phase", "rule", "zone", "label")}
    track, score = body.get("track_id"), body.get("score")
    numbers = {
        "track_id": track if isinstance(track, int) and not isinstance(track, bool) else None,
        "score": score if isinstance(score, int | float) and not isinstance(score, bool) else None,
    }
    values = whole | texts | numbers
    return (*(values[column] for column in COLUMNS), letter.captured, letter.to_json().decode())
