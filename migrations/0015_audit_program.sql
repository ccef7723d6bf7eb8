-- +goose Up

-- Ids are made of a microsecond and a number of ten bits. A program is given a number for a stretch of microseconds, and none
-- of them under that number twice: until is the first that nobody was given yet. It only grows. What a program of before makes
-- from here on is not counted: stop every siestad first.
DROP SEQUENCE audit_program;
CREATE TABLE audit_program (
    number smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 1023),
    -- Below are ids from before entries had codes; above, an id has no room.
    until  bigint NOT NULL CHECK (until BETWEEN 1::bigint << 50 AND 1::bigint << 53)
);
INSERT INTO audit_program SELECT n, greatest(1::bigint << 50, 1 + (greatest((SELECT max(id) FROM audit_inbox), (SELECT max(id) FROM audit_entry)) >> 10))
FROM generate_series(0, 1023) n;
-- +goose StatementBegin
CREATE FUNCTION audit_program_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number <> OLD.number OR NEW.until < OLD.until THEN
        RAISE EXCEPTION 'UPDATE of audit_program is refused: it would go back' USING ERRCODE = 'SA001';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER refuse BEFORE INSERT OR DELETE OR TRUNCATE ON audit_program FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER forward BEFORE UPDATE ON audit_program FOR EACH ROW EXECUTE FUNCTION audit_program_forward();
ALTER TABLE audit_program ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE audit_program ENABLE ALWAYS TRIGGER forward;

-- The log has a key (in the signed-note form, which names its origin too) from the moment the first program opens it to record,
-- and no longer only once one has led. '' on logs from before: the first program whose key has signed the newest checkpoint
-- puts it here.
ALTER TABLE audit_head ADD COLUMN key text NOT NULL DEFAULT '' CHECK (octet_length(key) <= 1024);
ALTER TABLE audit_head DROP COLUMN origin;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION audit_head_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.size < OLD.size OR NEW.epoch < OLD.epoch OR (OLD.key <> '' AND NEW.key <> OLD.key) THEN
        RAISE EXCEPTION 'UPDATE of audit_head is refused: it would go back' USING ERRCODE = 'SA001';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
