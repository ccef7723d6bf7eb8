-- Generic secrets of a project, and the sessions of the door /kbs/v0 through which a guest gets them (docs/adr/0012).

-- +goose Up

-- One secret. Its payload lies, wrapped under the KEK, in the key store of its site and nowhere else; the KEK is here,
-- wrapped under an epoch root. An ended row keeps the hash and the epoch, never the key.
--
-- staged: the row is here, the payload may or may not be in the key store; a sweep ends what stays so.
-- ending: no path leads to the payload any more; the key store has not confirmed the deletion yet.
CREATE TABLE broker_secret (
  id          text PRIMARY KEY CHECK (id ~ '^[0-9a-z]{26}$'),
  project     text NOT NULL CHECK (project <> ''),
  dataset     text NOT NULL DEFAULT '', -- empty: any dataset of the project
  repository  text NOT NULL CHECK (repository ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$'),
  type        text NOT NULL CHECK (type ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$'),
  tag         text NOT NULL CHECK (tag ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$'),
  site        text NOT NULL CHECK (site <> ''),
  secret_name text NOT NULL UNIQUE,
  secret_id   text,
  state       text NOT NULL CHECK (state IN ('staged', 'live', 'ending', 'ended')),
  epoch       integer NOT NULL CHECK (epoch > 0),
  kek         bytea,
  blob_hash   bytea NOT NULL CHECK (length(blob_hash) = 32),
  created_by  text NOT NULL CHECK (created_by <> ''),
  created_at  timestamptz NOT NULL DEFAULT now(),
  ended_by    text,
  ended_at    timestamptz,
  CHECK ((state IN ('staged', 'live')) = (kek IS NOT NULL)),
  CHECK ((state IN ('ending', 'ended')) = (ended_at IS NOT NULL)),
  CHECK ((ended_at IS NULL) = (ended_by IS NULL)),
  CHECK (state <> 'live' OR secret_id IS NOT NULL)
);
-- The database, not the code, says what a path means in a project.
CREATE UNIQUE INDEX broker_secret_path ON broker_secret (project, repository, type, tag) WHERE state = 'live';
CREATE INDEX broker_secret_project ON broker_secret (project, id);
CREATE INDEX broker_secret_epoch ON broker_secret (epoch) WHERE kek IS NOT NULL;
CREATE INDEX broker_secret_unfinished ON broker_secret (created_at) WHERE state IN ('staged', 'ending');

-- Which generation a launch digest belongs to: evidence that names no workspace is looked up here. The rows of a
-- workspace are replaced with each generation that is armed.
CREATE TABLE broker_measurement (
  measurement bytea NOT NULL CHECK (length(measurement) = 48),
  workspace   text NOT NULL,
  generation  integer NOT NULL,
  PRIMARY KEY (measurement, workspace),
  FOREIGN KEY (workspace, generation) REFERENCES broker_arm
);
CREATE INDEX broker_measurement_workspace ON broker_measurement (workspace, generation);
INSERT INTO broker_measurement (measurement, workspace, generation)
  SELECT decode(m, 'hex'), a.workspace, a.generation
  FROM broker_arm a JOIN broker_blob b ON b.sha256 = a.policy
  CROSS JOIN LATERAL jsonb_array_elements_text(convert_from(b.body, 'UTF8')::jsonb -> 'measurements') m
  WHERE a.state <> 'disarmed'
  ON CONFLICT DO NOTHING;

-- One handshake. The cookie itself is never stored. used_at is set, once, before anything that the guest sent is looked
-- at; what was proved is written with the decision and its audit entry.
CREATE TABLE broker_kbs_session (
  id           text PRIMARY KEY,
  cookie       bytea NOT NULL UNIQUE CHECK (length(cookie) = 32),
  nonce        bytea NOT NULL CHECK (length(nonce) = 32),
  tee          text NOT NULL CHECK (tee IN ('snp', 'tdx')),
  hash         text NOT NULL CHECK (hash IN ('sha256', 'sha384', 'sha512')),
  expires_at   timestamptz NOT NULL,
  used_at      timestamptz,
  attested_at  timestamptz,
  workspace    text,
  generation   integer,
  epoch        integer,
  tee_key      text,
  -- The decision that accepted the evidence: the id in its token.
  decision     text UNIQUE,
  report_data  bytea CHECK (length(report_data) = 64),
  report       bytea REFERENCES broker_blob,
  certificates bytea REFERENCES broker_blob,
  event_log    bytea REFERENCES broker_blob,
  CHECK (attested_at IS NULL OR used_at IS NOT NULL),
  CHECK ((attested_at IS NULL) = (workspace IS NULL)),
  CHECK (attested_at IS NULL OR (generation IS NOT NULL AND epoch IS NOT NULL AND tee_key IS NOT NULL AND decision IS NOT NULL AND report_data IS NOT NULL AND report IS NOT NULL)),
  FOREIGN KEY (workspace, generation) REFERENCES broker_arm
);
CREATE INDEX broker_kbs_session_open ON broker_kbs_session (expires_at) WHERE used_at IS NULL;
CREATE INDEX broker_kbs_session_expiry ON broker_kbs_session (expires_at);

-- A guest may ask for a challenge that gives a token and no key.
ALTER TABLE broker_challenge DROP CONSTRAINT broker_challenge_purpose_check,
  ADD CONSTRAINT broker_challenge_purpose_check CHECK (purpose IN ('unlock', 'renew', 'attest'));

-- attested: the evidence was accepted and nothing was released. secret is set when a decision was about one.
ALTER TABLE broker_decision ADD COLUMN secret text,
  DROP CONSTRAINT broker_decision_outcome_check, DROP CONSTRAINT broker_decision_check, DROP CONSTRAINT broker_decision_check1,
  ADD CONSTRAINT broker_decision_outcome_check CHECK (outcome IN ('released', 'renewed', 'attested', 'refused')),
  ADD CONSTRAINT broker_decision_lease_check CHECK ((outcome IN ('released', 'renewed')) = (lease IS NOT NULL)),
  ADD CONSTRAINT broker_decision_code_check CHECK ((outcome = 'refused') = (code <> ''));
