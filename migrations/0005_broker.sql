-- +goose Up

-- Bytes that a decision rests on, by their digest, so that it can be replayed: reports, certificates, policies.
CREATE TABLE broker_blob (
  sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
  body   bytea NOT NULL
);

-- One data volume per workspace: whose it is, where its wrapped key lies, which header it must have.
CREATE TABLE broker_volume (
  workspace   text PRIMARY KEY,
  project     text NOT NULL,
  site        text NOT NULL,
  secret_name text NOT NULL,
  secret_id   text,
  state       text NOT NULL CHECK (state IN ('open', 'shredding', 'shredded')),
  header_hash text CHECK (header_hash ~ '^[0-9a-f]{64}$'),
  created_at  timestamptz NOT NULL DEFAULT now(),
  shredded_at timestamptz,
  CHECK ((state = 'open') = (shredded_at IS NULL))
);

-- The key-encryption key of one version of a volume's key, wrapped under an epoch root; and the hash of the blob that
-- the site's key store must hold for it. A destroyed row keeps the hash and the epoch, never the key.
CREATE TABLE broker_key (
  workspace text NOT NULL REFERENCES broker_volume,
  version   integer NOT NULL CHECK (version > 0),
  state     text NOT NULL CHECK (state IN ('prepared', 'active', 'destroyed')),
  epoch     integer NOT NULL CHECK (epoch > 0),
  kek       bytea,
  blob_hash bytea NOT NULL CHECK (length(blob_hash) = 32),
  PRIMARY KEY (workspace, version),
  CHECK ((state = 'destroyed') = (kek IS NULL))
);
CREATE UNIQUE INDEX broker_key_active ON broker_key (workspace) WHERE state = 'active';
CREATE INDEX broker_key_epoch ON broker_key (epoch) WHERE kek IS NOT NULL;

-- One generation of a workspace's guest. epoch counts its armings: every one is good for one release.
CREATE TABLE broker_arm (
  workspace     text NOT NULL REFERENCES broker_volume,
  generation    integer NOT NULL CHECK (generation > 0),
  epoch         integer NOT NULL CHECK (epoch > 0),
  state         text NOT NULL CHECK (state IN ('armed', 'released', 'suspended', 'disarmed')),
  dataset       text NOT NULL,
  owner         text NOT NULL,
  image         text NOT NULL,
  volume_id     text NOT NULL,
  volume_serial text NOT NULL,
  policy        bytea NOT NULL REFERENCES broker_blob,
  report_id     bytea CHECK (length(report_id) = 32),
  reason        text NOT NULL DEFAULT '',
  changed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (workspace, generation),
  CHECK (state <> 'released' OR report_id IS NOT NULL)
);
CREATE UNIQUE INDEX broker_arm_current ON broker_arm (workspace) WHERE state <> 'disarmed';

CREATE TABLE broker_challenge (
  id         text PRIMARY KEY,
  nonce      bytea NOT NULL CHECK (length(nonce) = 32),
  workspace  text NOT NULL,
  generation integer NOT NULL,
  epoch      integer NOT NULL,
  purpose    text NOT NULL CHECK (purpose IN ('unlock', 'renew')),
  expires_at timestamptz NOT NULL,
  used_at    timestamptz,
  outcome    text CHECK (outcome IN ('granted', 'refused')),
  FOREIGN KEY (workspace, generation) REFERENCES broker_arm,
  CHECK (outcome IS NULL OR used_at IS NOT NULL)
);
CREATE INDEX broker_challenge_open ON broker_challenge (workspace, expires_at) WHERE used_at IS NULL;
CREATE INDEX broker_challenge_expiry ON broker_challenge (expires_at);

-- Who holds a volume. sealed_* is ciphertext for the attested guest alone, kept until it says that it has it.
CREATE TABLE broker_lease (
  id          text PRIMARY KEY,
  workspace   text NOT NULL,
  generation  integer NOT NULL,
  epoch       integer NOT NULL,
  volume_id   text NOT NULL,
  report_id   bytea NOT NULL CHECK (length(report_id) = 32),
  signing_key bytea NOT NULL CHECK (length(signing_key) = 32),
  chip        text NOT NULL,
  state       text NOT NULL CHECK (state IN ('live', 'ended')),
  mode        text NOT NULL CHECK (mode IN ('initialise', 'open')),
  granted_at  timestamptz NOT NULL DEFAULT now(),
  until       timestamptz NOT NULL,
  renew_after timestamptz NOT NULL,
  ended_why   text NOT NULL DEFAULT '',
  stage       text NOT NULL CHECK (stage IN ('attested', 'formatted', 'unlocked', 'ready', 'failed', 'stopping')),
  detail      text NOT NULL DEFAULT '',
  seq         integer NOT NULL DEFAULT 0,
  event_hash  bytea,
  challenge   text NOT NULL,
  request     bytea NOT NULL CHECK (length(request) = 32),
  sealed_enc  bytea,
  sealed_text bytea,
  entry       bigint NOT NULL,
  FOREIGN KEY (workspace, generation) REFERENCES broker_arm,
  CHECK ((state = 'ended') = (ended_why <> ''))
);
-- The database, not the code, forbids two holders of one volume.
CREATE UNIQUE INDEX broker_lease_holder ON broker_lease (volume_id) WHERE state = 'live';
CREATE INDEX broker_lease_workspace ON broker_lease (workspace, id);
CREATE INDEX broker_lease_challenge ON broker_lease (challenge);

-- Every verdict with what it rests on. lease is set when a key or a renewal was given.
CREATE TABLE broker_decision (
  id           text PRIMARY KEY,
  workspace    text NOT NULL,
  generation   integer NOT NULL,
  epoch        integer NOT NULL,
  challenge    text NOT NULL,
  purpose      text NOT NULL,
  outcome      text NOT NULL CHECK (outcome IN ('released', 'renewed', 'refused')),
  code         text NOT NULL DEFAULT '',
  checks       json NOT NULL,
  tee          text NOT NULL,
  report       bytea,
  certificates bytea,
  event_log    bytea,
  policy       bytea,
  collateral   bytea,
  report_data  bytea,
  judged_at    timestamptz NOT NULL,
  lease        text,
  entry        bigint NOT NULL,
  CHECK ((outcome = 'refused') = (lease IS NULL)),
  CHECK ((outcome = 'refused') = (code <> ''))
);
CREATE INDEX broker_decision_workspace ON broker_decision (workspace, id);
