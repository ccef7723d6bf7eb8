// Package keybroker owns the keys of data volumes and the generic secrets of projects: it keeps them wrapped, and hands
// one to a guest that has proved what it is, while every permission is in force.
//
// # What it owns
//
// The tables broker_*: volumes and their wrapped keys, armed generations, challenges, leases, decisions. The wrapped data
// key itself lies in the site's key store (Barbican) and nowhere else; the database has its SHA-256 and the wrapped
// key-encryption key, so that neither store alone opens a disk.
//
// # Invariants
//
//  1. A key leaves only if appraisal, permit, project, image, guest, no freeze and lease all hold in one transaction, in
//     which the decision, the lease and the audit entry commit; and only after that entry stands under a signed checkpoint.
//  2. A nonce is consumed, in a statement of its own, before anything that depends on it is looked at. A failure burns it.
//  3. One arming gives one release. A second genuine guest of a released generation suspends it.
//  4. A volume has at most one live lease: a unique index says so.
//  5. What is stored for redelivery is ciphertext for the attested key, and worthless to the guest without the broker's
//     signature, which is made only after the checkpoint.
//  6. After Shred no path leads to the key.
//  7. No network call is made inside a transaction.
//  8. A secret of a project leaves on the conditions of 1, to the boot that holds the live lease of its workspace's volume,
//     and never as, or in place of, a volume key: the two kinds of envelope do not open as each other (docs/adr/0012).
//  9. A token about an attestation releases nothing by itself: it names a session, which must live.
//
// What strangers ask for takes nothing from a workspace's guest: no limit that they can spend is one that it is refused for.
// What they leave behind, and what a guest can do, is bounded (limits.go, turn.go).
//
// # Order of locks
//
// Arm, volume, the gate of the roots, key, lease, secret, then what Facts locks. Every transaction here takes them in this order.
//
// # Whom it trusts
//
// The keyring and the process's memory with keys; Postgres with availability and with the order of events, not with
// secrecy; the key store with nothing. Leases and nonces live by the database's clock, evidence is judged by the clock in
// Config.
package keybroker
