// Package flow runs long work in named steps that survive crashes, restarts and late workers.
//
// It owns the tables flow (one row per run, where it stands now) and flow_event (append-only, what happened). One flow is
// live per subject, so a workspace has a single writer.
//
// What holds at every moment:
//   - The intent to do a step is committed before its Do runs; what Do achieved, the domain rows and the audit entries of
//     the step commit in the one transaction that records "succeeded". A crash between the two runs Do again, so Do finds
//     what it made before it makes anything.
//   - Whoever runs a flow holds a lease taken from the database clock and an epoch. Every write names the epoch, requires
//     the lease and must hit one row; a worker that comes back late writes nothing.
//   - A context given to Do or Undo ends before the lease does, so no outbound call of a fenced worker is still being sent
//     when its successor starts. A process that was stopped and resumed can still send one; that is what the natural
//     keys of the things a step makes are for.
//   - A step that waits gives its worker back. Every step has a deadline by the database clock, counted from its first
//     intent, and ends in a state that a person can see: failed with everything undone, or parked. Its problem tells the
//     next step, and whose it is.
//   - A panic in any function of a flow is the failure of that step. The transaction in which it happened leaves nothing.
//
// It trusts the database and its clock; it does not trust its own process to be on time.
package flow
