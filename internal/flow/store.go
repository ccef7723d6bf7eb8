package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"
)

// row is a claimed flow as the claim returned it, kept in step with the database by every write of the claim's owner.
type row struct {
	ID        ID
	Kind      string
	Subject   string
	Step      string
	Backward  bool
	Epoch     int64
	Attempts  int
	Data      json.RawMessage
	Detail    string
	Calls     []Call
	Problem   *Problem
	Cancel    *string
	Age       *float64 // seconds since the current step's first intent; nil before it
	Abandoned bool     // the lease of an earlier worker ran out: nobody knows how far it came
}

// Every query of the package, so that a test can prepare each of them on the migrated schema.
var queries = map[string]string{
	"start": `
INSERT INTO flow (id, kind, subject, state, steps, step, data, request)
VALUES (@id, @kind, @subject, 'running', @steps, @step, @data, @request)
ON CONFLICT (subject) WHERE state IN ('running', 'unwinding', 'parked') DO NOTHING`,

	"claim": `
UPDATE flow f SET epoch = f.epoch + 1, holder = @holder, lease_until = clock_timestamp() + make_interval(secs => @lease)
FROM (SELECT id, lease_until IS NOT NULL AS abandoned FROM flow
      WHERE state IN ('running', 'unwinding') AND kind = ANY (@kinds) AND next_at <= clock_timestamp()
        AND (lease_until IS NULL OR lease_until <= clock_timestamp())
      ORDER BY next_at LIMIT @limit FOR UPDATE SKIP LOCKED) due
WHERE f.id = due.id
RETURNING f.id, f.kind, f.subject, f.step, f.backward, f.epoch, f.attempts, f.data, f.detail, f.calls, f.problem, f.cancel,
  extract(epoch FROM clock_timestamp() - f.intent_at)::float8 AS age, due.abandoned`,

	"renew": `
UPDATE flow f SET lease_until = clock_timestamp() + make_interval(secs => @lease)
FROM unnest(@ids::text[], @epochs::bigint[]) AS mine (id, epoch)
WHERE f.id = mine.id AND f.epoch = mine.epoch AND f.state IN ('running', 'unwinding') AND f.lease_until > clock_timestamp()
RETURNING f.id, f.cancel`,

	// The step is part of it: a commit whose answer was lost has moved the flow on, and what its worker would write next is old.
	"guard": `
SELECT cancel FROM flow
WHERE id = @id AND epoch = @epoch AND step = @step AND backward = @backward AND state IN ('running', 'unwinding') AND lease_until > clock_timestamp() FOR UPDATE`,

	"intent": `
UPDATE flow SET intent_at = coalesce(intent_at, clock_timestamp())
WHERE id = @id AND epoch = @epoch AND lease_until > clock_timestamp() AND state IN ('running', 'unwinding')
RETURNING cancel, extract(epoch FROM clock_timestamp() - intent_at)::float8`,

	// Moving to a step writes the intent for it as well: one commit instead of two.
	"move": `
UPDATE flow SET state = @state, backward = @backward, step = @step, data = @data, problem = @problem, detail = '', calls = '[]',
  attempts = 0, intent_at = clock_timestamp()
WHERE id = @id AND epoch = @epoch`,

	"end": `
UPDATE flow SET state = @state, backward = @backward, step = @step, data = @data, problem = @problem, detail = '', calls = '[]',
  attempts = 0, intent_at = NULL, holder = NULL, lease_until = NULL,
  ended_at = CASE WHEN @state = 'parked' THEN NULL ELSE clock_timestamp() END
WHERE id = @id AND epoch = @epoch`,

	// A wait never reaches past the step's deadline.
	"wait": `
UPDATE flow SET next_at = least(clock_timestamp() + make_interval(secs => @after), greatest(clock_timestamp(), intent_at + make_interval(secs => @deadline))),
  data = @data, detail = @detail, calls = @calls, problem = @problem, attempts = @attempts, holder = NULL, lease_until = NULL
WHERE id = @id AND epoch = @epoch`,

	"release": `
UPDATE flow SET next_at = clock_timestamp() + make_interval(secs => @after), detail = @detail, attempts = @attempts, holder = NULL, lease_until = NULL
WHERE id = @id AND epoch = @epoch AND state IN ('running', 'unwinding')`,

	"yield": `
UPDATE flow SET holder = NULL, lease_until = NULL
WHERE id = @id AND epoch = @epoch + 1 AND holder = @holder AND state = 'superseded'`,

	"event": `
INSERT INTO flow_event (flow, epoch, kind, step, detail, problem, calls)
VALUES (@flow, @epoch, @kind, @step, @detail, @problem, @calls)`,

	"supersede": `
UPDATE flow SET state = 'superseded', epoch = epoch + 1, ended_at = clock_timestamp(),
  problem = jsonb_build_object('code', 'superseded', 'detail', @why::text, 'fix', 'follow the operation that took its place: ' || @by)
WHERE subject = @subject AND kind <> @by AND state IN ('running', 'unwinding', 'parked')
RETURNING id, epoch`,

	"quiet": `
SELECT coalesce(max(extract(epoch FROM lease_until - clock_timestamp())), 0)::float8
FROM flow WHERE subject = @subject AND state = 'superseded' AND lease_until > clock_timestamp()`,

	"cancel": `
UPDATE flow SET cancel = @why, next_at = least(next_at, clock_timestamp())
WHERE id = @id AND state = 'running' AND cancel IS NULL`,

	"resume": `
UPDATE flow SET state = CASE WHEN backward THEN 'unwinding' ELSE 'running' END, attempts = 0, intent_at = NULL, detail = '',
  problem = CASE WHEN backward THEN problem END, next_at = clock_timestamp()
WHERE id = @id AND state = 'parked' RETURNING epoch, step`,

	// A row that somebody has locked is about to change.
	"parked": `
SELECT id FROM flow f WHERE subject = @subject AND state = 'parked'
  AND (SELECT max(at) FROM flow_event WHERE flow = f.id AND kind = 'parked') <= clock_timestamp() - make_interval(secs => @since)
FOR SHARE SKIP LOCKED`,

	"flows": `
SELECT id, kind, subject, state, backward, steps, step, detail, problem, request, created_at, ended_at
FROM flow WHERE id = @id OR subject = @subject ORDER BY id DESC LIMIT @limit`,

	"live": `
SELECT id, kind, subject, state, backward, steps, step, detail, problem, request, created_at, ended_at
FROM flow WHERE subject = @subject AND state IN ('running', 'unwinding', 'parked')`,

	"events": `
SELECT flow, kind, step, at, detail, problem FROM flow_event WHERE flow = ANY (@flows) ORDER BY flow, seq`,
}

type args = pgx.StrictNamedArgs

// exactlyOne runs a guarded write; any other number of rows means that somebody else holds the flow now.
func exactlyOne(ctx context.Context, tx pgx.Tx, query string, a args) error {
	tag, err := tx.Exec(ctx, queries[query], a)
	if err != nil {
		return fmt.Errorf("%s of flow: %w", query, err)
	}
	if tag.RowsAffected() != 1 {
		return ErrLost
	}
	return nil
}

func addEvent(ctx context.Context, tx pgx.Tx, id ID, epoch int64, kind EventKind, step, detail string, p *Problem, calls []Call) error {
	_, err := tx.Exec(ctx, queries["event"], args{
		"flow": id, "epoch": epoch, "kind": kind, "step": step, "detail": detail,
		"problem": orNull(p), "calls": listOrNull(calls),
	})
	if err != nil {
		return fmt.Errorf("recording %s of flow %s: %w", kind, id, err)
	}
	return nil
}

// orNull keeps an absent problem an SQL NULL; a nil pointer would be stored as the JSON value null.
func orNull(p *Problem) any {
	if p == nil {
		return nil
	}
	return p
}

func listOrNull(calls []Call) any {
	if len(calls) == 0 {
		return nil
	}
	return calls
}

// Start begins a flow in the caller's transaction: until that commits there is no flow. ErrBusy if the subject has a live
// one. request is the id of the request that caused it. Call Wake after the commit.
func Start[S any](ctx context.Context, tx pgx.Tx, r *Runner, kind, subject, request string, s S) (ID, error) {
	p := r.plans[kind]
	if p == nil {
		return "", fmt.Errorf("starting flow %s for %s: no such kind", kind, subject)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("starting flow %s for %s: %w", kind, subject, err)
	}
	id := ID(strings.ToLower(ulid.Make().String()))
	names := make([]string, len(p.steps))
	for i, step := range p.steps {
		names[i] = step.name
	}
	tag, err := tx.Exec(ctx, queries["start"], args{
		"id": id, "kind": kind, "subject": subject, "steps": names, "step": names[0],
		"data": json.RawMessage(data), "request": request,
	})
	if err != nil {
		return "", fmt.Errorf("starting flow %s for %s: %w", kind, subject, err)
	}
	if tag.RowsAffected() != 1 {
		return "", fmt.Errorf("starting flow %s for %s: %w", kind, subject, ErrBusy)
	}
	return id, addEvent(ctx, tx, id, 0, Created, "", "", nil, nil)
}

// Supersede ends every live flow of the subject that is not of kind by, without unwinding it: whoever calls it takes over
// what that flow had made. Its worker can write nothing from the commit on; see Quiet for its outbound calls.
func (r *Runner) Supersede(ctx context.Context, tx pgx.Tx, subject, by, why string) error {
	rows, err := tx.Query(ctx, queries["supersede"], args{"subject": subject, "by": by, "why": why})
	if err != nil {
		return fmt.Errorf("superseding the flows of %s: %w", subject, err)
	}
	type ended struct {
		ID    ID
		Epoch int64
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ended])
	if err != nil {
		return fmt.Errorf("superseding the flows of %s: %w", subject, err)
	}
	for _, e := range list {
		if err := addEvent(ctx, tx, e.ID, e.Epoch, Superseded, "", why, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// Quiet says for how long a superseded worker on the subject may still be making outbound calls: zero when it has said
// that it stopped, or when its lease is over.
func (r *Runner) Quiet(ctx context.Context, subject string) (time.Duration, error) {
	var secs float64
	if err := r.cfg.DB.QueryRow(ctx, queries["quiet"], args{"subject": subject}).Scan(&secs); err != nil {
		return 0, fmt.Errorf("looking for workers on %s: %w", subject, err)
	}
	return time.Duration(secs * float64(time.Second)), nil
}

// Cancel asks for a running flow to be unwound. A flow that has just ended, or is being unwound, is left as it is.
func (r *Runner) Cancel(ctx context.Context, tx pgx.Tx, id ID, why string) error {
	if _, err := tx.Exec(ctx, queries["cancel"], args{"id": id, "why": why}); err != nil {
		return fmt.Errorf("cancelling flow %s: %w", id, err)
	}
	return nil
}

// IsParked says whether the subject's live flow has been parked for so long, and keeps it so until the transaction ends: what it
// left behind can be taken over.
func IsParked(ctx context.Context, tx pgx.Tx, subject string, since time.Duration) (bool, error) {
	err := tx.QueryRow(ctx, queries["parked"], args{"subject": subject, "since": since.Seconds()}).Scan(new(ID))
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking whether the flow of %s is parked: %w", subject, err)
	}
	return true, nil
}

// Resume lets a parked flow go on from the step at which it was parked.
func (r *Runner) Resume(ctx context.Context, tx pgx.Tx, id ID) error {
	var (
		epoch int64
		step  string
	)
	err := tx.QueryRow(ctx, queries["resume"], args{"id": id}).Scan(&epoch, &step)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("resuming flow %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("resuming flow %s: %w", id, err)
	}
	return addEvent(ctx, tx, id, epoch, Resumed, step, "", nil, nil)
}
