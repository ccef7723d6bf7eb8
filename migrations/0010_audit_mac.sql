-- +goose Up
-- An entry that waits to be signed carries a code that only a holder of the log key can make, over its id and its leaf. The
-- sequencer signs nothing without it. ids are given by the program, so that they can be part of the code.
-- This fails, and changes nothing, while entries wait: let the running siestad finish them first (audit_inbox is then empty).
ALTER TABLE audit_inbox ADD COLUMN mac bytea NOT NULL CHECK (octet_length(mac) = 32);
ALTER TABLE audit_inbox ALTER COLUMN id DROP DEFAULT;
-- NULL for entries that were signed before there were codes.
ALTER TABLE audit_entry ADD COLUMN mac bytea CHECK (octet_length(mac) = 32);
DROP SEQUENCE audit_id;
