-- +goose Up

CREATE TABLE project (
  id          text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
  name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  state       text NOT NULL CHECK (state IN ('active', 'closed')),
  valid_until timestamptz NOT NULL,
  members     text[] NOT NULL DEFAULT '{}',
  version     bigint NOT NULL DEFAULT 1,
  created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX project_members ON project USING gin (members);

-- A dataset row is one version of one dataset: a permit is for exactly that.
CREATE TABLE dataset (
  id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
  title      text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  version    text NOT NULL CHECK (length(version) BETWEEN 1 AND 64),
  custodian  text NOT NULL CHECK (custodian <> ''),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE permit (
  id         text PRIMARY KEY,
  project    text NOT NULL REFERENCES project,
  dataset    text NOT NULL REFERENCES dataset,
  people     text[] NOT NULL CHECK (cardinality(people) BETWEEN 1 AND 100),
  state      text NOT NULL CHECK (state IN ('live', 'ended')),
  until      timestamptz NOT NULL,
  granted_by text NOT NULL,
  ended_by   text,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((state = 'ended') = (ended_by IS NOT NULL))
);
CREATE INDEX permit_live ON permit (project, dataset) WHERE state = 'live';

CREATE TABLE freeze_order (
  id         text PRIMARY KEY,
  kind       text NOT NULL CHECK (kind IN ('person', 'project', 'dataset', 'image', 'site', 'chip')),
  value      text NOT NULL CHECK (length(value) BETWEEN 1 AND 300),
  reason     text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
  state      text NOT NULL CHECK (state IN ('live', 'lifted')),
  placed_by  text NOT NULL,
  lifted_by  text,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((state = 'lifted') = (lifted_by IS NOT NULL))
);
CREATE INDEX freeze_live ON freeze_order (kind, value) WHERE state = 'live';

-- Bytes of kernels, initrds and firmware, by content, in pieces that a reader can stream.
CREATE TABLE blob (
  sha256   bytea PRIMARY KEY CHECK (length(sha256) = 32),
  sha512   bytea NOT NULL CHECK (length(sha512) = 64),
  size     bigint NOT NULL CHECK (size > 0),
  stored_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE blob_piece (
  sha256 bytea NOT NULL REFERENCES blob DEFERRABLE INITIALLY DEFERRED,
  seq    integer NOT NULL CHECK (seq >= 0),
  data   bytea NOT NULL CHECK (length(data) BETWEEN 1 AND 1048576),
  PRIMARY KEY (sha256, seq)
);
ALTER TABLE blob_piece ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE image (
  id            text PRIMARY KEY,
  name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  state         text NOT NULL CHECK (state IN ('draft', 'registered', 'approved', 'withdrawn')),
  kernel        bytea REFERENCES blob,
  initrd        bytea REFERENCES blob,
  firmware      bytea REFERENCES blob,
  created_by    text NOT NULL,
  registered_by text,
  approved_by   text,
  withdrawn_by  text,
  version       bigint NOT NULL DEFAULT 1,
  created_at    timestamptz NOT NULL DEFAULT now(),
  -- What is registered is complete, and who approved it is somebody else.
  CHECK (state IN ('draft', 'withdrawn') OR (kernel IS NOT NULL AND initrd IS NOT NULL AND firmware IS NOT NULL AND registered_by IS NOT NULL)),
  CHECK (state <> 'approved' OR approved_by IS NOT NULL),
  CHECK (approved_by IS NULL OR (approved_by <> registered_by AND approved_by <> created_by)),
  CHECK ((state = 'withdrawn') = (withdrawn_by IS NOT NULL))
);
CREATE INDEX image_state ON image (state, id);
