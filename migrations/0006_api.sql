-- Answers kept for repeated requests. A row is written in the transaction of
-- the effect that it answers, so an effect without its stored answer, or an
-- answer without its effect, cannot exist.

-- +goose Up

CREATE TABLE idempotency (
    principal  text NOT NULL CHECK (principal <> ''),
    method     text NOT NULL,
    path       text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 8 AND 128),
    body_hash  bytea NOT NULL CHECK (octet_length(body_hash) = 32),
    status     integer NOT NULL CHECK (status BETWEEN 200 AND 299),
    answer     bytea NOT NULL CHECK (octet_length(answer) <= 1048576),
    -- The entry that the answer had to wait for, 0 for none.
    audit_id   bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, method, path, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);
