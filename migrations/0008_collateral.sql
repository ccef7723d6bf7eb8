-- What vendors say of their hardware, kept by digest; what is still to be fetched; who fetches.

-- +goose Up

-- An object as its vendor published it, proved before it came here. Rows are never changed and never removed, so that
-- a decision's collateral can always be given back.
CREATE TABLE collateral_object (
  sha256      bytea PRIMARY KEY CHECK (length(sha256) = 32 AND sha256 = sha256(body)),
  kind        text NOT NULL CHECK (kind IN ('amd-vcek', 'amd-vlek', 'amd-ask-ark', 'amd-crl', 'intel-tcbinfo', 'intel-qe-identity',
    'intel-pck-crl', 'intel-root-crl', 'intel-tcb-chain', 'intel-qe-chain')),
  key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
  body        bytea NOT NULL CHECK (length(body) BETWEEN 1 AND 1048576),
  chain       bytea NOT NULL CHECK (length(chain) <= 16384),
  valid_from  timestamptz NOT NULL,
  valid_until timestamptz NOT NULL,
  source      text NOT NULL CHECK (source IN ('vendor', 'import')),
  stored_at   timestamptz NOT NULL,
  CHECK (valid_from < valid_until)
);
CREATE INDEX collateral_object_subject ON collateral_object (kind, key, valid_from DESC);

-- +goose StatementBegin
CREATE FUNCTION collateral_object_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'collateral is append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER collateral_object_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON collateral_object
  FOR EACH STATEMENT EXECUTE FUNCTION collateral_object_append_only();

-- What is to be fetched, once for each subject whoever asked and however often. next_at is when it is tried again: for what
-- is held, when it is refreshed; for what the vendor does not have, when it may be asked for again.
CREATE TABLE collateral_want (
  kind       text NOT NULL,
  key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
  registered boolean NOT NULL,
  state      text NOT NULL CHECK (state IN ('due', 'held', 'absent')),
  attempts   integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at    timestamptz NOT NULL,
  detail     text NOT NULL DEFAULT '',
  PRIMARY KEY (kind, key)
);
CREATE INDEX collateral_want_due ON collateral_want (next_at) WHERE state <> 'absent';

-- The one process that fetches, by the database's clock. Two for a moment cost a request, nothing else.
CREATE TABLE collateral_lease (
  single      boolean PRIMARY KEY DEFAULT true CHECK (single),
  holder      text NOT NULL,
  lease_until timestamptz NOT NULL
);
INSERT INTO collateral_lease (holder, lease_until) VALUES ('', '-infinity');

-- Lists that verdicts went on resting on after their end; each is audited when it happens first.
CREATE TABLE collateral_grace (
  sha256     bytea PRIMARY KEY REFERENCES collateral_object,
  until      timestamptz NOT NULL,
  first_used timestamptz NOT NULL
);
