-- The audit log: one inbox, one tree (docs/adr/0004).
--
-- An action inserts its entry into audit_inbox within its own transaction. The
-- sequencer moves entries from there to audit_entry, giving each the next leaf
-- index, and writes the batch's leaf hashes, completed tiles and signed
-- checkpoint in the same transaction. Rows outside the inbox never change.

-- +goose Up

CREATE SEQUENCE audit_id AS bigint;

CREATE TABLE audit_inbox (
    id       bigint PRIMARY KEY DEFAULT nextval('audit_id'),
    at       timestamptz NOT NULL,
    action   text NOT NULL CHECK (action <> ''),
    object   text NOT NULL CHECK (object <> ''),
    project  text NOT NULL,
    outcome  text NOT NULL CHECK (outcome IN ('success', 'refused', 'failed')),
    body     bytea NOT NULL CHECK (octet_length(body) BETWEEN 2 AND 32768),
    openings bytea CHECK (octet_length(openings) BETWEEN 2 AND 32768)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The columns between id and body repeat parts of the body, for searching; the
-- leaf is the body, byte for byte.
CREATE TABLE audit_entry (
    leaf_index bigint PRIMARY KEY CHECK (leaf_index >= 0),
    id         bigint NOT NULL UNIQUE,
    at         timestamptz NOT NULL,
    action     text NOT NULL,
    object     text NOT NULL,
    project    text NOT NULL,
    outcome    text NOT NULL CHECK (outcome IN ('success', 'refused', 'failed')),
    body       bytea NOT NULL
);
CREATE INDEX audit_entry_object ON audit_entry (object, leaf_index);
CREATE INDEX audit_entry_project ON audit_entry (project, leaf_index) WHERE project <> '';
CREATE INDEX audit_entry_action ON audit_entry (action, leaf_index);
CREATE INDEX audit_entry_outcome ON audit_entry (outcome, leaf_index) WHERE outcome <> 'success';
CREATE INDEX audit_entry_at ON audit_entry USING brin (at);

-- What opens the salted commitments of an entry. Rows here may be deleted: the
-- tree stands without them, and the personal data is gone. No foreign key: its
-- check would lock, and so write, every entry again.
CREATE TABLE audit_opening (
    leaf_index bigint PRIMARY KEY,
    openings   bytea NOT NULL
);

-- One signed checkpoint per batch. first_index = size only for the checkpoint of the empty log.
CREATE TABLE audit_batch (
    size        bigint PRIMARY KEY,
    first_index bigint NOT NULL,
    epoch       bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    leaves      bytea NOT NULL CHECK (octet_length(leaves) = 32 * (size - first_index)),
    checkpoint  bytea NOT NULL CHECK (octet_length(checkpoint) BETWEEN 1 AND 8192),
    CHECK (first_index >= 0 AND (size > first_index OR size = 0) AND size - first_index <= 1024)
);

-- Completed 256-wide tiles, and the root of each, which is one hash of the tile above.
CREATE TABLE audit_tile (
    level integer NOT NULL CHECK (level BETWEEN 0 AND 6),
    idx   bigint NOT NULL CHECK (idx >= 0),
    root  bytea NOT NULL CHECK (octet_length(root) = 32),
    data  bytea NOT NULL CHECK (octet_length(data) = 8192),
    PRIMARY KEY (level, idx)
);
ALTER TABLE audit_tile ALTER COLUMN data SET STORAGE EXTERNAL;

-- The head of the tree and the sequencer's lease, which must move together.
CREATE TABLE audit_head (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    origin      text NOT NULL DEFAULT '',
    size        bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    root        bytea NOT NULL DEFAULT sha256('') CHECK (octet_length(root) = 32),
    epoch       bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    holder      text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10);
INSERT INTO audit_head DEFAULT VALUES;

-- +goose StatementBegin
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: the audit log only grows', TG_OP, TG_TABLE_NAME USING ERRCODE = 'SA001';
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- An entry leaves the inbox only in the statement that puts it, unchanged, into the log.
CREATE FUNCTION audit_inbox_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM gone g WHERE NOT EXISTS (
        SELECT FROM audit_entry e WHERE e.id = g.id AND e.body = g.body)) THEN
        RAISE EXCEPTION 'DELETE of audit_inbox is refused: the entry is not in the log' USING ERRCODE = 'SA001';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION audit_head_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.size < OLD.size OR NEW.epoch < OLD.epoch OR (OLD.origin <> '' AND NEW.origin <> OLD.origin) THEN
        RAISE EXCEPTION 'UPDATE of audit_head is refused: it would go back' USING ERRCODE = 'SA001';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The fence of a batch: takes the head's row lock, and raises unless the caller
-- still holds the epoch and knows the size. It raises rather than answering,
-- because in a pipelined transaction nobody reads the answer before the commit.
CREATE FUNCTION audit_fence(my_epoch bigint, my_size bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM audit_head WHERE epoch = my_epoch AND size = my_size FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'epoch % no longer leads the audit log at size %', my_epoch, my_size USING ERRCODE = 'SA002';
    END IF;
END $$;
-- +goose StatementEnd

CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_batch FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_tile FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER refuse BEFORE UPDATE OR TRUNCATE ON audit_opening FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER refuse BEFORE UPDATE OR TRUNCATE ON audit_inbox FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER moved AFTER DELETE ON audit_inbox REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION audit_inbox_moved();
CREATE TRIGGER refuse BEFORE INSERT OR DELETE OR TRUNCATE ON audit_head FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER forward BEFORE UPDATE ON audit_head FOR EACH ROW EXECUTE FUNCTION audit_head_forward();

-- Also in sessions that set session_replication_role = replica.
ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_batch ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_tile ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_opening ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_inbox ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_inbox ENABLE ALWAYS TRIGGER moved;
ALTER TABLE audit_head ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_head ENABLE ALWAYS TRIGGER forward;
