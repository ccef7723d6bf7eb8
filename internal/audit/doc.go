// Package audit keeps the log of who did what: every entry is inserted in the
// transaction of the effect that it records, and every entry becomes a leaf of
// one Merkle tree whose signed heads anyone can check.
//
// # Two waits, one tree
//
// Append is one INSERT into an inbox, in the caller's transaction: no lock, no
// index, nothing to queue behind. The sequencer, one in the whole installation
// by a lease in the database, moves committed entries out of the inbox, gives
// them dense leaf indexes, and writes them with their tiles and a signed
// checkpoint in one transaction. A caller that must not answer before its entry
// is under a durable signed head commits and then calls Wait.
//
// # Format
//
// The leaf is the stored body, byte for byte: one line of JSON with a schema
// version, never serialised again. Its hash is the RFC 6962 record hash.
// Tiles are 256 wide, in the C2SP tlog-tiles layout; checkpoints are C2SP
// checkpoints signed with Ed25519 in the signed-note form; receipts are C2SP
// tlog-proof texts. Export describes the export's format.
//
// Personal data never enters a body. What names a person is stored as a salted
// SHA-256 commitment, and what opens it lives in a table whose rows may be
// deleted without touching the tree.
//
// # Invariants
//
//   - An entry leaves the inbox only in the transaction that puts it, unchanged,
//     into the log; triggers refuse every other change.
//   - A batch commits only under the epoch that leads and at the size it was
//     built on; the fence raises inside the transaction.
//   - Nothing is signed before the stored tree has been rebuilt, found equal to
//     the stored head, and found to extend the last checkpoint remembered
//     outside the database.
//   - No two entries have the same id, and no two programs the same ids to give:
//     see span. A log has one key, from the first program that opened it.
//
// # Trust
//
// The package trusts its signing key, and the database for availability only:
// whoever edits, deletes, reorders or rolls back what is stored is found by
// siesta-verify, given an export, the public key and, for a rollback, any
// earlier checkpoint. The clock in an entry is a claim; order is by index.
package audit
