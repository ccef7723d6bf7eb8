-- What others sign about the digests of kernels, initrds and firmware. It supports an approval and never makes one.

-- +goose Up

-- A document as it came, proved before it came here. Rows are never changed and never removed: who approved an image knowing a
-- document can be asked about that document. What a key has signed is here once, whatever unsigned bytes are around it.
CREATE TABLE endorsement (
  id          text PRIMARY KEY,
  statement   bytea NOT NULL UNIQUE CHECK (length(statement) = 32), -- SHA-256 of key and what it signed
  sha256      bytea NOT NULL CHECK (length(sha256) = 32 AND sha256 = sha256(body)),
  body        bytea NOT NULL CHECK (length(body) BETWEEN 1 AND 131072),
  corim_id    text NOT NULL CHECK (length(corim_id) BETWEEN 1 AND 300),
  signer      text NOT NULL CHECK (length(signer) BETWEEN 1 AND 300),
  signer_key  text NOT NULL CHECK (signer_key ~ '^[0-9a-f]{64}$'),
  digests     integer NOT NULL CHECK (digests > 0),
  not_after   timestamptz,
  imported_by text NOT NULL CHECK (imported_by <> ''),
  imported_at timestamptz NOT NULL DEFAULT now()
);

-- The values in it whose digests can be those of a file, and what it says they are of. A file has to have all of a value's.
CREATE TABLE endorsed_value (
  endorsement text NOT NULL REFERENCES endorsement,
  sha256      bytea CHECK (length(sha256) = 32),
  sha512      bytea CHECK (length(sha512) = 64),
  subject     text NOT NULL CHECK (length(subject) BETWEEN 1 AND 4000),
  CHECK (sha256 IS NOT NULL OR sha512 IS NOT NULL)
);
CREATE INDEX endorsed_value_sha256 ON endorsed_value (sha256);
CREATE INDEX endorsed_value_sha512 ON endorsed_value (sha512);

-- +goose StatementBegin
CREATE FUNCTION endorsement_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'endorsements are append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER endorsement_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON endorsement
  FOR EACH STATEMENT EXECUTE FUNCTION endorsement_append_only();
CREATE TRIGGER endorsed_value_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON endorsed_value
  FOR EACH STATEMENT EXECUTE FUNCTION endorsement_append_only();
