-- +goose Up

CREATE TABLE workspace (
  id           text PRIMARY KEY CHECK (id ~ '^[0-9a-z]{26}$'),
  name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  project      text NOT NULL CHECK (project <> ''),
  dataset      text NOT NULL CHECK (dataset <> ''),
  image        text NOT NULL CHECK (image <> ''),
  site         text NOT NULL CHECK (site <> ''),
  flavor       text NOT NULL CHECK (flavor <> ''),
  data_gib     integer NOT NULL CHECK (data_gib BETWEEN 1 AND 65536),
  owner        text NOT NULL CHECK (owner <> ''),
  simulated    boolean NOT NULL,
  state        text NOT NULL CHECK (state IN ('creating', 'ready', 'stopped', 'suspended', 'rebooting', 'deleting', 'deleted', 'failed')),
  generation   integer NOT NULL DEFAULT 1 CHECK (generation > 0),
  reason       jsonb,
  line         text NOT NULL DEFAULT '' CHECK (octet_length(line) <= 255),
  measurements text[] NOT NULL DEFAULT '{}',
  version      bigint NOT NULL DEFAULT 1,
  watch_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  ready_at     timestamptz,
  deleted_at   timestamptz,
  CHECK ((state = 'deleted') = (deleted_at IS NOT NULL)),
  CHECK (state NOT IN ('ready', 'stopped', 'suspended', 'rebooting') OR ready_at IS NOT NULL),
  CHECK (state NOT IN ('stopped', 'suspended', 'failed') OR reason IS NOT NULL),
  -- A guest that was bound has a line and at least one measurement that it may give.
  CHECK ((line = '') = (cardinality(measurements) = 0)),
  CHECK (ready_at IS NULL OR line <> '')
);
CREATE INDEX workspace_project ON workspace (project, id);
CREATE INDEX workspace_owner ON workspace (owner, id);
CREATE INDEX workspace_watch ON workspace (watch_at) WHERE state IN ('ready', 'stopped');

-- What a workspace has at its site. A row is written with the step that made the thing; one that a crash kept from being
-- written is found by its name. Rows outlive the things: auditors ask for the ids.
CREATE TABLE workspace_resource (
  workspace  text NOT NULL REFERENCES workspace,
  role       text NOT NULL CHECK (role IN ('key', 'sg', 'port', 'data', 'root', 'server')),
  generation integer NOT NULL CHECK (generation > 0),
  name       text NOT NULL CHECK (length(name) <= 63),
  ext_id     text NOT NULL CHECK (length(ext_id) BETWEEN 1 AND 255),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  gone_at    timestamptz,
  PRIMARY KEY (workspace, role, generation)
);

-- Kernels and initrds at a site are shared between workspaces and removed with the last that uses them. A workspace
-- takes its use before it looks at the image; 'removing' keeps others from taking one while the image is on its way out.
CREATE TABLE site_image (
  site     text NOT NULL,
  sha256   bytea NOT NULL CHECK (length(sha256) = 32),
  -- How often the image was removed: Glance never gives the id of a deleted image again, so each time has its own.
  removals integer NOT NULL DEFAULT 0 CHECK (removals >= 0),
  remover  text REFERENCES workspace,
  PRIMARY KEY (site, sha256)
);
CREATE TABLE site_image_use (
  site      text NOT NULL,
  sha256    bytea NOT NULL,
  workspace text NOT NULL REFERENCES workspace,
  PRIMARY KEY (site, sha256, workspace),
  FOREIGN KEY (site, sha256) REFERENCES site_image
);
CREATE INDEX site_image_use_workspace ON site_image_use (workspace);
