// Package workspace owns workspaces: what a researcher asked for, the confidential guest that serves it, and the create,
// reboot and delete flows that make, restart and destroy it on a site.
//
// States: creating → ready ⇄ rebooting; ready → stopped (the server went down by itself) or suspended (a boot that nobody
// asked for was refused, or one that a person had allowed came to nothing); any state → deleting → deleted; creating and
// rebooting → failed; failed → ready (the guest came up after its reboot had failed) or suspended. A failed or stopped
// workspace that was ready before keeps its data volume and its key until it is deleted.
//
// Invariants:
//   - A workspace has one live flow at most, and only that flow touches its resources in the cloud.
//   - Every resource is found by a name or key that follows from installation, workspace, role and generation; what a crash
//     left unrecorded is found and adopted, never made twice.
//   - A data volume under which a key was once confirmed is deleted by Delete alone.
//   - A generation is armed while an operation that asked for its boot runs, and no longer.
//   - Delete refuses releases in its own transaction and destroys the key before anything else.
//   - Every effect has its audit entry in the same transaction.
//
// It trusts Postgres and the broker. Everything that the cloud answers is checked before it is used, and nothing that the
// cloud answers can release a key: that is the broker's and the evidence's business.
package workspace
