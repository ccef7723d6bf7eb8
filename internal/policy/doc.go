// Package policy keeps the attestation policies and security floors that people put into force.
//
// # What it owns
//
// The tables policy_document, policy_version and security_floor. A document is the canonical JSON of an attest.Policy, named
// by its SHA-256, for one site or one project. A floor is a signed file (package floor).
//
// # States
//
//	draft --propose--> proposed --activate--> active --retire, by two--> retired
//	  \________________ retire _/                \__ a newer version is activated --> retired
//
// # Invariants
//
//  1. A document narrows and nothing else. What a site's configuration does not admit it cannot admit: it is refused when it
//     is written, proposed and activated, and at arming what it says is joined with what the workspace asks for, and the
//     result is proved to be narrower once more.
//  2. Who wrote or proposed a document does not activate it, and no single person ends one that is in force: taking a
//     narrowing away is widening. The database has both as CHECKs.
//  3. Versions are append-only and numbered per scope. An older version never replaces a newer one that is in force.
//  4. The effective floor is the higher of the configuration's and the file's, component by component. A file replaces only
//     one that was issued before it.
//  5. An empty list in a document says nothing; it never says "any". What nobody says is refused by package attest.
//
// # Whom it trusts
//
// The site's configuration for what the machines are; the configured floor keys for the vendors' levels; Postgres for which
// version is in force, as for every fact of a release.
package policy
