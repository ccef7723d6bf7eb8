-- +goose Up
-- A challenge says itself what it is for, under the broker's code, and has a row only once it is used: what nobody uses
-- leaves nothing. Challenges of before are worth nothing any more; a guest asks for another.
DELETE FROM broker_challenge WHERE used_at IS NULL;
ALTER TABLE broker_challenge ALTER COLUMN used_at SET NOT NULL;
DROP INDEX broker_challenge_open;
-- Who asked: so that among sessions that nobody has put to use, those of whoever left the most go first.
ALTER TABLE broker_kbs_session ADD COLUMN peer text NOT NULL DEFAULT '';
DROP INDEX broker_kbs_session_open;
CREATE INDEX broker_kbs_session_idle ON broker_kbs_session (expires_at) WHERE attested_at IS NULL;
