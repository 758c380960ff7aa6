"""What is asked of SQLite about calls: its statements, and nothing of when they are asked.

Each finds what it wants by an index, and those that may change many calls change
`CALLS_PER_TURN` at most. Deletions return the names of what they forgot. What is private is
only a part of statements.
"""

CALLS_PER_TURN = 1000

_AS_ACCEPTED = """
    call_id, session_id, principal, request_id, tool, arguments_digest, accepted_at, timeout_s,
    idempotency_key, idempotent, follows, request, state, owner, attempt, started_at
"""
_LATER = "settled_at, summary, sent_at, erased_at, erased_because"
INSERT = f"""
    INSERT INTO calls ({_AS_ACCEPTED})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (session_id, request_id) DO NOTHING
    ON CONFLICT (principal, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
"""
_SELECT = f"""
    SELECT encoded, {_AS_ACCEPTED}, {_LATER} FROM calls LEFT JOIN settlements USING (number)
"""
FIND = f"{_SELECT} WHERE session_id = ? AND request_id = ?"
FIND_BY_KEY = f"{_SELECT} WHERE principal = ? AND idempotency_key = ?"
FIND_ALL = f"""
    {_SELECT} WHERE number IN (
        SELECT number FROM calls WHERE principal = ?1 AND request_id = ?2
        UNION ALL SELECT number FROM calls WHERE principal = ?1 AND call_id = ?2
    ) ORDER BY accepted_at, number
"""

START = """
    UPDATE calls SET state = 'running', owner = ?1, attempt = ?2, started_at = ?3,
        request = iif(idempotent AND ?2 = 1, request, NULL)
    WHERE call_id = ?4 AND settled_at IS NULL AND attempt < ?2
"""
_NEXT_RANK = "(SELECT last_rank + 1 FROM totals)"
SETTLE = f"""
    UPDATE calls
    SET state = 'settled', settled_at = ?, summary = ?, result_bytes = ?, request = NULL,
        rank = {_NEXT_RANK}
    WHERE call_id = ? AND settled_at IS NULL
"""
KEEP = "INSERT INTO settlements SELECT number, ? FROM calls WHERE call_id = ?"
_ERASE = f"""
    UPDATE calls
    SET state = 'erased', erased_because = ?, erased_at = ?, result_bytes = 0, sent_bytes = 0,
        rank = {_NEXT_RANK}
"""
ERASE_ONE = f"{_ERASE} WHERE number = ?"
ERASE_ACKNOWLEDGED = f"{_ERASE} WHERE session_id = ? AND request_id = ? AND result_bytes > 0"

KEY_COUNT = "SELECT key_count FROM principal_usage WHERE principal = ?"
KEPT_BYTES = "SELECT kept_bytes FROM principal_usage WHERE principal = ?"
OWED = """
    SELECT request_id FROM calls WHERE session_id = ? AND erased_at IS NULL ORDER BY number
"""
UNSETTLED = f"{_SELECT} WHERE settled_at IS NULL AND erased_at IS NULL ORDER BY number"
USAGE = "SELECT result_count, result_bytes FROM session_usage WHERE session_id = ?"
SENT_USAGE = """
    SELECT sent_count, sent_bytes, tombstone_count FROM session_usage WHERE session_id = ?
"""
MARK_SENT = f"""
    UPDATE calls SET sent_bytes = result_bytes, sent_at = coalesce(sent_at, ?),
        rank = {_NEXT_RANK}
    WHERE session_id = ? AND request_id = ? AND result_bytes > 0 AND sent_bytes = 0
"""
FORGET_SENT = "UPDATE calls SET sent_bytes = 0 WHERE session_id = ? AND sent_bytes > 0"
OLDEST_SENT = """
    SELECT number, sent_bytes FROM calls WHERE session_id = ? AND sent_bytes > 0 ORDER BY rank
"""
OLDEST_KEPT_BY_KEY = """
    SELECT number, result_bytes FROM calls
    WHERE principal = ? AND session_id IS NULL AND result_bytes > 0 ORDER BY rank, number
"""
FORGET_OLDEST_ERASED = """
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls
        WHERE session_id = ? AND erased_at IS NOT NULL AND idempotency_key IS NULL
        ORDER BY rank, settled_at, number LIMIT ?
    ) RETURNING session_id, request_id
"""

FORGET_ERASED_UNTIL = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls
        WHERE erased_at <= ? AND erased_at IS NOT NULL AND idempotency_key IS NULL
        LIMIT {CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
ERASE_SETTLED_UNTIL = f"""
    {_ERASE} WHERE number IN (
        SELECT number FROM calls WHERE settled_at <= ? AND result_bytes > 0
        ORDER BY settled_at LIMIT {CALLS_PER_TURN}
    )
"""
FORGET_KEYS_UNTIL = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls WHERE settled_at <= ? AND idempotency_key IS NOT NULL
        LIMIT {CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
LEAVE_SESSION = f"""
    UPDATE calls SET session_id = NULL, sent_bytes = 0, rank = {_NEXT_RANK}
    WHERE number IN (
        SELECT number FROM calls WHERE session_id = ? AND idempotency_key IS NOT NULL
        ORDER BY number LIMIT {CALLS_PER_TURN}
    )
"""
FORGET_OF_SESSION = f"""
    DELETE FROM calls WHERE number IN (
        SELECT number FROM calls WHERE session_id = ? LIMIT {CALLS_PER_TURN}
    ) RETURNING session_id, request_id
"""
NAMES = "SELECT request_id FROM calls WHERE session_id = ?"
