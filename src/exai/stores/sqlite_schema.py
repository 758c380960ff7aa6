"""The tables of the ledger's database, as the steps that lead to them.

A step is never changed once it was released; the next one is added after it. How much there
is of conversations is counted by triggers, in the transaction that changes it, so that no
question needs to count.
"""

_CALLS = """
CREATE TABLE identity (ledger_id TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(8))));

-- Without indexes: whoever has the file knows the rows of the calls (`stores.call_index`).
-- `number` is in the order of acceptance. `session_id` is NULL once the session has ended.
-- `request` is there only while the call may have to run, or to run again, `settlement` only
-- while there is a result. `rank` says when a result settled or left its session, or when it
-- was erased.
CREATE TABLE calls (
    number INTEGER PRIMARY KEY,
    rank INTEGER NOT NULL DEFAULT 0,
    call_id TEXT NOT NULL,
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
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_at REAL,
    settled_at REAL,
    summary BLOB,
    sent_at REAL,
    erased_at REAL,
    erased_because TEXT,
    request BLOB,
    settlement BLOB
) STRICT;
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
CREATE TABLE totals (
    conversation_count INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL,
    last_rank INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (0, 0, 0);

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

_ABOUT_SESSIONS = """
ALTER TABLE sessions ADD COLUMN about BLOB NOT NULL DEFAULT x'';
"""

MIGRATIONS: tuple[str, ...] = (_CALLS + _SESSIONS + _CONVERSATIONS, _ABOUT_SESSIONS)
"""The step at index n leads from version n to version n + 1."""
