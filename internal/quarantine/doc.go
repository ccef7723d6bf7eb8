// Package quarantine takes machinery out of service at once: a chip, a host, an image, a key version or a product line.
//
// A quarantine is a freeze (package permit) that also ends the leases it finds. Placing one is a single transaction with a
// single audit entry: from its commit on no key is released and no lease renewed that touches what it names, and the
// leases that were live are ended. The rows of quarantine_hit and the entry say what was found.
//
// # Invariants
//
//  1. Nothing that a quarantine names gets a key between its commit and the moment it is lifted.
//  2. Whoever placed a quarantine does not lift it. The database has that as a CHECK, too.
//  3. Lifting gives nothing back: a guest whose lease was ended boots anew.
//
// What a lease cannot do, a quarantine cannot either: a guest that was paused before it keeps what it has in memory.
package quarantine
