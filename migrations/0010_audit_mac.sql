-- +goose Up
-- An entry that waits to be signed carries a code that only a holder of the log key can make, over its id and leaf. The
-- sequencer signs nothing without it. ids are given by programs, so that they can be part of the leaf; each program has a number.
-- Stop every siestad first. This fails, and changes nothing, while entries wait: then let one siestad finish them.
ALTER TABLE audit_inbox ADD COLUMN mac bytea NOT NULL CHECK (octet_length(mac) = 32);
ALTER TABLE audit_inbox ALTER COLUMN id DROP DEFAULT;
-- NULL for entries that were signed before there were codes.
ALTER TABLE audit_entry ADD COLUMN mac bytea CHECK (octet_length(mac) = 32);
ALTER SEQUENCE audit_id RENAME TO audit_program;
