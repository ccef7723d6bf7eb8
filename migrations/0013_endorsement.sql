-- What others sign about the digests of kernels, initrds and firmware. It supports an approval and never makes one.

-- +goose Up

-- A document as it was signed, proved before it came here. Rows are never changed and never removed: who approved an image
-- knowing a document can be asked about that document.
CREATE TABLE endorsement (
  id          text PRIMARY KEY,
  sha256      bytea NOT NULL UNIQUE CHECK (length(sha256) = 32 AND sha256 = sha256(body)),
  body        bytea NOT NULL CHECK (length(body) BETWEEN 1 AND 131072),
  corim_id    text NOT NULL CHECK (length(corim_id) BETWEEN 1 AND 300),
  signer      text NOT NULL CHECK (length(signer) BETWEEN 1 AND 300),
  signer_key  text NOT NULL CHECK (signer_key ~ '^[0-9a-f]{64}$'),
  digests     integer NOT NULL CHECK (digests > 0),
  not_after   timestamptz,
  imported_by text NOT NULL CHECK (imported_by <> ''),
  imported_at timestamptz NOT NULL DEFAULT now()
);

-- The digests in it that can be those of a file, and what it says they are of.
CREATE TABLE endorsed_digest (
  endorsement text NOT NULL REFERENCES endorsement,
  digest      bytea NOT NULL CHECK (length(digest) IN (32, 64)), -- SHA-256 or SHA-512
  subject     text NOT NULL CHECK (length(subject) BETWEEN 1 AND 4000)
);
CREATE INDEX endorsed_digest_digest ON endorsed_digest (digest);

-- +goose StatementBegin
CREATE FUNCTION endorsement_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'endorsements are append-only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER endorsement_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON endorsement
  FOR EACH STATEMENT EXECUTE FUNCTION endorsement_append_only();
CREATE TRIGGER endorsed_digest_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON endorsed_digest
  FOR EACH STATEMENT EXECUTE FUNCTION endorsement_append_only();
