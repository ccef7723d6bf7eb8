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
