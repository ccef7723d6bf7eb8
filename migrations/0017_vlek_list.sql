-- +goose Up

-- AMD has two revocation lists for a product line, one of chips' keys and one of providers' (key LINE/vlek). One key signs both,
-- so both may be one file: what names a row is what it was fetched for beside its bytes. The transaction that writes a grace
-- writes its object, too, unless it is there.
ALTER TABLE collateral_grace DROP CONSTRAINT collateral_grace_sha256_fkey;
ALTER TABLE collateral_object DROP CONSTRAINT collateral_object_pkey, ADD PRIMARY KEY (sha256, kind, key);
