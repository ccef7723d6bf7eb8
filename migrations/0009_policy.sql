-- Policy documents, quarantine, the security floor, and what decisions need to be replayed.

-- +goose Up

-- A quarantine is a freeze that ended the leases it found, and that nobody lifts alone.
ALTER TABLE freeze_order DROP CONSTRAINT freeze_order_kind_check;
ALTER TABLE freeze_order ADD CONSTRAINT freeze_order_kind_check
  CHECK (kind IN ('person', 'project', 'dataset', 'image', 'site', 'chip', 'host', 'product', 'key'));
ALTER TABLE freeze_order ADD COLUMN quarantine boolean NOT NULL DEFAULT false;
ALTER TABLE freeze_order ADD CONSTRAINT freeze_order_quarantine_two_people
  CHECK (NOT quarantine OR lifted_by IS NULL OR lifted_by <> placed_by);
ALTER TABLE freeze_order ADD CONSTRAINT freeze_order_quarantine_kind
  CHECK (NOT quarantine OR kind IN ('chip', 'host', 'image', 'key', 'product'));

-- What a quarantine found when it was placed. lease is empty where a guest was armed and held no key.
CREATE TABLE quarantine_hit (
  quarantine text NOT NULL REFERENCES freeze_order,
  workspace  text NOT NULL,
  project    text NOT NULL,
  site       text NOT NULL,
  generation integer NOT NULL,
  lease      text NOT NULL DEFAULT '',
  chip       text NOT NULL DEFAULT '',
  host       text NOT NULL DEFAULT '',
  PRIMARY KEY (quarantine, workspace)
);

-- The product line that held the key: '' on leases from before this column, which a quarantine meets at their renewal.
ALTER TABLE broker_lease ADD COLUMN product text NOT NULL DEFAULT '';
-- The policy that the lease's last decision was taken under: it is part of what the answer is bound to, and an answer that is
-- given again must be the same although the floor has been raised since. NULL on leases from before.
ALTER TABLE broker_lease ADD COLUMN policy bytea CHECK (length(policy) = 32);

-- The policy that the workspace asked for, before documents narrowed it to arm.policy; NULL on arms from before.
ALTER TABLE broker_arm ADD COLUMN asked bytea CHECK (length(asked) = 32);

-- The objects of the collateral that decisions name by its digest. One without objects has no rows.
CREATE TABLE broker_collateral (
  digest bytea NOT NULL CHECK (length(digest) = 32),
  kind   text NOT NULL,
  object bytea NOT NULL REFERENCES broker_blob,
  PRIMARY KEY (digest, kind, object)
);

-- Decisions come in order of time, and every release writes one: an index that costs it next to nothing.
CREATE INDEX broker_decision_judged ON broker_decision USING brin (judged_at);
CREATE INDEX broker_decision_code ON broker_decision (code, id) WHERE code <> '';

-- The canonical bytes of policy documents, by their name. Never changed, never removed.
CREATE TABLE policy_document (
  sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
  body   bytea NOT NULL CHECK (length(body) BETWEEN 2 AND 262144)
);

-- Versions of the policy of one scope. A row only ever moves forward, and nobody brings one into force alone.
CREATE TABLE policy_version (
  id            text PRIMARY KEY,
  scope_kind    text NOT NULL CHECK (scope_kind IN ('site', 'project')),
  scope         text NOT NULL CHECK (scope ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
  version       integer NOT NULL CHECK (version > 0),
  document      bytea NOT NULL REFERENCES policy_document,
  note          text NOT NULL CHECK (length(note) BETWEEN 1 AND 500),
  state         text NOT NULL CHECK (state IN ('draft', 'proposed', 'active', 'retired')),
  created_by    text NOT NULL CHECK (created_by <> ''),
  proposed_by   text,
  activated_by  text,
  retiring_by   text,
  retired_by    text,
  superseded_by text REFERENCES policy_version,
  created_at    timestamptz NOT NULL DEFAULT now(),
  changed_at    timestamptz NOT NULL DEFAULT now(),
  UNIQUE (scope_kind, scope, version),
  CHECK (state NOT IN ('proposed', 'active') OR proposed_by IS NOT NULL),
  CHECK ((state = 'active') <= (activated_by IS NOT NULL)),
  CONSTRAINT policy_version_two_people
    CHECK (activated_by IS NULL OR (proposed_by IS NOT NULL AND activated_by <> proposed_by AND activated_by <> created_by)),
  CHECK ((state = 'retired') = (retired_by IS NOT NULL)),
  -- What was in force ends by two people, too: one who asks and another who agrees, or the two of its successor.
  CONSTRAINT policy_version_two_people_end
    CHECK (state <> 'retired' OR activated_by IS NULL OR superseded_by IS NOT NULL OR (retiring_by IS NOT NULL AND retiring_by <> retired_by))
);
CREATE UNIQUE INDEX policy_version_active ON policy_version (scope_kind, scope) WHERE state = 'active';

-- Signed floor files. The active one is the newest that two people put into force.
CREATE TABLE security_floor (
  id           text PRIMARY KEY,
  sha256       bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
  body         bytea NOT NULL CHECK (length(body) BETWEEN 2 AND 262144),
  issued       timestamptz NOT NULL,
  state        text NOT NULL CHECK (state IN ('proposed', 'active', 'retired')),
  proposed_by  text NOT NULL CHECK (proposed_by <> ''),
  activated_by text,
  created_at   timestamptz NOT NULL DEFAULT now(),
  CHECK ((state <> 'proposed') = (activated_by IS NOT NULL)),
  CONSTRAINT security_floor_two_people CHECK (activated_by <> proposed_by)
);
CREATE UNIQUE INDEX security_floor_active ON security_floor (state) WHERE state = 'active';
