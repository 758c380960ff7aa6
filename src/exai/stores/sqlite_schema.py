"""The tables of the ledger's database, as the steps that lead to them.

A step is never changed once it was released; the next one is added after it. What a
session or a principal has is counted by triggers, in the transaction that changes it, so
that no question needs to count.
"""

_CALLS = """
CREATE TABLE identity (ledger_id TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(8))));

CREATE TABLE totals (
    record_count INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    conversation_count INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL,
    last_rank INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (0, 0, 0, 0, 0);

-- `number` is in the order of acceptance. `session_id` is NULL once the session has ended.
-- `result_bytes` is 0 without a result, `sent_bytes` until it was sent. `rank` says when a
-- call came to where it stands: among the sent, the erased, or what only a key keeps.
-- `request` is there only while the call may have to run, or to run again.
CREATE TABLE calls (
    number INTEGER PRIMARY KEY,
    call_id TEXT NOT NULL UNIQUE,
    session_id TEXT,
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    tool TEXT NOT NULL,
    arguments_digest BLOB NOT NULL,
    accepted_at REAL NOT NULL,
    timeout_s REAL NOT NULL,
    idempotency_key TEXT,
    idempotent INTEGER NOT NULL,
    follows TEXT,
    request BLOB,
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_at REAL,
    settled_at REAL,
    summary BLOB,
    sent_at REAL,
    erased_at REAL,
    erased_because TEXT,
    result_bytes INTEGER NOT NULL DEFAULT 0,
    sent_bytes INTEGER NOT NULL DEFAULT 0,
    rank INTEGER NOT NULL DEFAULT 0,
    UNIQUE (session_id, request_id)
) STRICT;
CREATE INDEX calls_by_name ON calls (principal, request_id);
CREATE INDEX unsettled_calls ON calls (number) WHERE settled_at IS NULL;
CREATE UNIQUE INDEX call_of_key ON calls (principal, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX owed_calls ON calls (session_id) WHERE erased_at IS NULL;
CREATE INDEX sent_calls ON calls (session_id, rank) WHERE sent_bytes > 0;
CREATE INDEX erased_calls ON calls (session_id, rank, settled_at)
    WHERE erased_at IS NOT NULL AND idempotency_key IS NULL;
CREATE INDEX calls_kept_by_key ON calls (principal, rank)
    WHERE session_id IS NULL AND result_bytes > 0;
CREATE INDEX results_by_age ON calls (settled_at) WHERE result_bytes > 0;
CREATE INDEX erased_by_age ON calls (erased_at)
    WHERE erased_at IS NOT NULL AND idempotency_key IS NULL;
CREATE INDEX keys_by_age ON calls (settled_at) WHERE idempotency_key IS NOT NULL;

-- Apart from its call, so that a change of state does not write a large result again.
CREATE TABLE settlements (
    number INTEGER PRIMARY KEY REFERENCES calls ON DELETE CASCADE,
    encoded BLOB NOT NULL
) STRICT;

CREATE TABLE session_usage (
    session_id TEXT PRIMARY KEY,
    result_count INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    sent_count INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    tombstone_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER session_usage_emptied AFTER UPDATE ON session_usage
WHEN NEW.result_count = 0 AND NEW.tombstone_count = 0 BEGIN
    DELETE FROM session_usage WHERE session_id = NEW.session_id;
END;

CREATE TABLE principal_usage (
    principal TEXT PRIMARY KEY,
    key_count INTEGER NOT NULL,
    kept_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER principal_usage_emptied AFTER UPDATE ON principal_usage
WHEN NEW.key_count = 0 AND NEW.kept_bytes = 0 BEGIN
    DELETE FROM principal_usage WHERE principal = NEW.principal;
END;

CREATE TRIGGER call_inserted AFTER INSERT ON calls BEGIN
    UPDATE totals SET record_count = record_count + 1;
END;
CREATE TRIGGER key_inserted AFTER INSERT ON calls WHEN NEW.idempotency_key IS NOT NULL BEGIN
    INSERT INTO principal_usage VALUES (NEW.principal, 1, 0)
        ON CONFLICT DO UPDATE SET key_count = key_count + 1;
END;

CREATE TRIGGER call_moved AFTER UPDATE OF rank, sent_bytes ON calls BEGIN
    UPDATE totals SET
        result_bytes = result_bytes + NEW.result_bytes - OLD.result_bytes,
        last_rank = max(last_rank, NEW.rank);
    INSERT INTO session_usage
        SELECT
            NEW.session_id,
            NEW.result_bytes > 0,
            NEW.result_bytes,
            NEW.sent_bytes > 0,
            NEW.sent_bytes,
            NEW.erased_at IS NOT NULL AND NEW.idempotency_key IS NULL
        WHERE NEW.session_id IS NOT NULL
        ON CONFLICT DO UPDATE SET
            result_count = result_count + excluded.result_count,
            result_bytes = result_bytes + excluded.result_bytes,
            sent_count = sent_count + excluded.sent_count,
            sent_bytes = sent_bytes + excluded.sent_bytes,
            tombstone_count = tombstone_count + excluded.tombstone_count;
    UPDATE session_usage SET
        result_count = result_count - (OLD.result_bytes > 0),
        result_bytes = result_bytes - OLD.result_bytes,
        sent_count = sent_count - (OLD.sent_bytes > 0),
        sent_bytes = sent_bytes - OLD.sent_bytes
        WHERE session_id = OLD.session_id AND OLD.result_bytes > 0;
    UPDATE principal_usage SET
        kept_bytes = kept_bytes
            + iif(NEW.session_id IS NULL, NEW.result_bytes, 0)
            - iif(OLD.session_id IS NULL, OLD.result_bytes, 0)
        WHERE principal = NEW.principal AND NEW.session_id IS NULL;
END;
CREATE TRIGGER call_erased AFTER UPDATE OF erased_at ON calls WHEN NEW.erased_at IS NOT NULL BEGIN
    DELETE FROM settlements WHERE number = NEW.number;
END;

CREATE TRIGGER call_deleted AFTER DELETE ON calls BEGIN
    UPDATE totals SET
        record_count = record_count - 1,
        result_bytes = result_bytes - OLD.result_bytes;
    UPDATE session_usage SET
        result_count = result_count - (OLD.result_bytes > 0),
        result_bytes = result_bytes - OLD.result_bytes,
        sent_count = sent_count - (OLD.sent_bytes > 0),
        sent_bytes = sent_bytes - OLD.sent_bytes,
        tombstone_count = tombstone_count
            - (OLD.erased_at IS NOT NULL AND OLD.idempotency_key IS NULL)
        WHERE session_id = OLD.session_id AND OLD.settled_at IS NOT NULL;
    UPDATE principal_usage SET
        key_count = key_count - 1,
        kept_bytes = kept_bytes - iif(OLD.session_id IS NULL, OLD.result_bytes, 0)
        WHERE principal = OLD.principal AND OLD.idempotency_key IS NOT NULL;
END;
"""

_SESSIONS = """
-- Of a resume token only a digest is kept.
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    resume_digest BLOB NOT NULL
) STRICT;
"""

_CONVERSATIONS = """
-- Texts are UTF-8 as bytes: half of a surrogate pair is none that SQLite's TEXT can hold.
-- `rank` is in the order of the last turns.
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY,
    principal TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    model TEXT,
    system_prompt BLOB,
    text_bytes INTEGER NOT NULL,
    last_turn_at REAL NOT NULL,
    rank INTEGER NOT NULL,
    UNIQUE (principal, conversation_id)
) STRICT;
CREATE INDEX conversations_by_age ON conversations (rank);
CREATE INDEX conversations_of_principal ON conversations (principal, rank);

CREATE TABLE turns (
    number INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
    call_id TEXT NOT NULL,
    at REAL NOT NULL,
    text_bytes INTEGER NOT NULL,
    prompt BLOB NOT NULL,
    reply BLOB NOT NULL
) STRICT;
CREATE INDEX turns_of_conversation ON turns (conversation);
CREATE INDEX turn_of_call ON turns (conversation, call_id);

CREATE TABLE conversation_usage (
    principal TEXT PRIMARY KEY,
    conversation_count INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER conversation_begun AFTER INSERT ON conversations BEGIN
    UPDATE totals SET
        conversation_count = conversation_count + 1,
        text_bytes = text_bytes + NEW.text_bytes,
        last_rank = NEW.rank;
    INSERT INTO conversation_usage VALUES (NEW.principal, 1, NEW.text_bytes)
        ON CONFLICT DO UPDATE SET
            conversation_count = conversation_count + 1,
            text_bytes = text_bytes + excluded.text_bytes;
END;
CREATE TRIGGER conversation_changed AFTER UPDATE ON conversations BEGIN
    UPDATE totals SET
        text_bytes = text_bytes + NEW.text_bytes - OLD.text_bytes,
        last_rank = max(last_rank, NEW.rank);
    UPDATE conversation_usage SET text_bytes = text_bytes + NEW.text_bytes - OLD.text_bytes
        WHERE principal = NEW.principal;
END;
CREATE TRIGGER conversation_forgotten AFTER DELETE ON conversations BEGIN
    UPDATE totals SET
        conversation_count = conversation_count - 1,
        text_bytes = text_bytes - OLD.text_bytes;
    UPDATE conversation_usage SET
        conversation_count = conversation_count - 1,
        text_bytes = text_bytes - OLD.text_bytes
        WHERE principal = OLD.principal;
    DELETE FROM conversation_usage WHERE principal = OLD.principal AND conversation_count = 0;
END;
"""

MIGRATIONS: tuple[str, ...] = (_CALLS + _SESSIONS + _CONVERSATIONS,)
"""The step at index n leads from version n to version n + 1."""
