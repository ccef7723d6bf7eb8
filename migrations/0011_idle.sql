-- +goose Up
-- Who asked: so that among challenges and sessions that nobody has put to use, those of whoever left the most go first.
ALTER TABLE broker_challenge ADD COLUMN peer text NOT NULL DEFAULT '';
ALTER TABLE broker_kbs_session ADD COLUMN peer text NOT NULL DEFAULT '';
DROP INDEX broker_challenge_open;
DROP INDEX broker_kbs_session_open;
CREATE INDEX broker_challenge_idle ON broker_challenge (expires_at) WHERE used_at IS NULL OR outcome = 'refused';
CREATE INDEX broker_kbs_session_idle ON broker_kbs_session (expires_at) WHERE attested_at IS NULL;
