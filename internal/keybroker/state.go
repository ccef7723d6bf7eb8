package keybroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// State is what the broker knows of a workspace's guest.
type State struct {
	Prepared   bool
	Generation int
	Epoch      int
	Armed      bool // one release is still to be had
	Released   bool
	Suspended  bool
	Reason     string

	// Stage of the newest lease of this arming: attested, formatted, unlocked, ready, failed, stopping; empty before the release.
	Stage      string
	Detail     string
	LeaseID    string
	LeaseLive  bool
	LeaseUntil time.Time

	HeaderRecorded bool
	LastRefusal    *LastRefusal

	// Destruction is empty while the key lives. Afterwards it says how far its destruction has come.
	Destruction string
}

// LastRefusal is the newest refusal, if it is newer than the newest release.
type LastRefusal struct {
	ID, Code string
	At       time.Time
	Checks   []attest.Check
}

// Words of State.Destruction.
const (
	DestructionUnderWay = "keys refused; the key store has not confirmed the deletion yet"
	DestructionPending  = "keys refused; destruction is pending until the epoch root is rotated and destroyed"
	DestructionComplete = "destroyed: the epoch root is gone"
)

// State reports on a workspace; ErrNotFound if Prepare never saw it.
func (b *Broker) State(ctx context.Context, workspace string) (State, error) {
	var s State
	var volume, arm, reason, stage, detail, lease *string
	var generation, epoch, lastKeyEpoch *int
	var until *time.Time
	err := b.DB.QueryRow(ctx, `SELECT v.state, v.header_hash IS NOT NULL,
			EXISTS (SELECT FROM broker_key k WHERE k.workspace = v.workspace AND k.state = 'active'),
			(SELECT max(k.epoch) FROM broker_key k WHERE k.workspace = v.workspace),
			a.state, a.generation, a.epoch, a.reason, l.id, l.stage, l.detail, l.until, coalesce(l.state = 'live' AND l.until > now(), false)
		FROM broker_volume v
		LEFT JOIN broker_arm a ON a.workspace = v.workspace AND a.state <> 'disarmed'
		LEFT JOIN LATERAL (SELECT * FROM broker_lease l WHERE l.workspace = a.workspace AND l.generation = a.generation AND l.epoch = a.epoch
			ORDER BY l.id DESC LIMIT 1) l ON true
		WHERE v.workspace = $1`, workspace).
		Scan(&volume, &s.HeaderRecorded, &s.Prepared, &lastKeyEpoch, &arm, &generation, &epoch, &reason, &lease, &stage, &detail, &until, &s.LeaseLive)
	if errors.Is(err, pgx.ErrNoRows) {
		return State{}, fmt.Errorf("reading the state of workspace %s: %w", workspace, ErrNotFound)
	}
	if err != nil {
		return State{}, fmt.Errorf("reading the state of workspace %s: %w", workspace, err)
	}
	s.Generation, s.Epoch, s.Reason, s.Stage, s.Detail, s.LeaseID = value(generation), value(epoch), value(reason), value(stage), value(detail), value(lease)
	s.LeaseUntil = value(until)
	s.Armed, s.Released, s.Suspended = value(arm) == stateArmed, value(arm) == stateReleased, value(arm) == stateSuspended
	switch value(volume) {
	case "shredding":
		s.Destruction = DestructionUnderWay
	case "shredded":
		if s.Destruction, err = b.destruction(ctx, value(lastKeyEpoch)); err != nil {
			return State{}, fmt.Errorf("reading the state of workspace %s: %w", workspace, err)
		}
	}
	if s.LastRefusal, err = lastRefusal(ctx, b, workspace); err != nil {
		return State{}, fmt.Errorf("reading the state of workspace %s: %w", workspace, err)
	}
	return s, nil
}

// Armed is the guest that can have the workspace's key, with the policy as documents narrowed it. ErrState where no guest can:
// none is armed, its generation is suspended, or the key is destroyed.
func (b *Broker) Armed(ctx context.Context, workspace string) (Arm, error) {
	doing := func(err error) (Arm, error) {
		return Arm{}, fmt.Errorf("reading the armed guest of workspace %s: %w", workspace, err)
	}
	a := Arm{Workspace: workspace}
	var state string
	var policy []byte
	err := b.DB.QueryRow(ctx, `SELECT v.project, a.dataset, a.owner, a.image, v.site, a.generation, a.volume_id, a.volume_serial, a.policy, a.state
		FROM broker_arm a JOIN broker_volume v USING (workspace)
		WHERE a.workspace = $1 AND a.state <> 'disarmed' AND v.state = 'open' AND EXISTS (SELECT FROM broker_key k WHERE k.workspace = a.workspace AND k.state = 'active')`, workspace).
		Scan(&a.Project, &a.Dataset, &a.Owner, &a.Image, &a.Site, &a.Generation, &a.VolumeID, &a.VolumeSerial, &policy, &state)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return doing(fmt.Errorf("%w: no guest of it is armed", ErrState))
	case err != nil:
		return doing(err)
	case state != stateArmed && state != stateReleased:
		return doing(fmt.Errorf("%w: its generation is %s", ErrState, state))
	}
	if a.Policy, err = b.policy(ctx, [32]byte(policy)); err != nil {
		return doing(err)
	}
	return a, nil
}

// destruction is complete once no root is left that a copy of the KEK may have been wrapped under: roots are used in
// order, so these are all up to the last one.
func (b *Broker) destruction(ctx context.Context, last int) (string, error) {
	epochs, err := b.Keyring.Epochs(ctx)
	if err != nil {
		return "", fmt.Errorf("listing epoch roots: %w", err)
	}
	if len(epochs) == 0 || epochs[0] <= last {
		return DestructionPending, nil
	}
	return DestructionComplete, nil
}

func lastRefusal(ctx context.Context, b *Broker, workspace string) (*LastRefusal, error) {
	var r LastRefusal
	var outcome string
	var checks []byte
	err := b.DB.QueryRow(ctx, `SELECT id, outcome, code, judged_at, checks FROM broker_decision WHERE workspace = $1 ORDER BY id DESC LIMIT 1`, workspace).
		Scan(&r.ID, &outcome, &r.Code, &r.At, &checks)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && outcome != "refused" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last decision: %w", err)
	}
	if err := json.Unmarshal(checks, &r.Checks); err != nil {
		return nil, fmt.Errorf("reading the last decision: %w", err)
	}
	return &r, nil
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// Explain says which of the facts of a release hold for a workspace now, and who can fix those that do not; ErrNotFound if
// nobody has armed a guest of it yet, for then it is not known here whose it is.
func (b *Broker) Explain(ctx context.Context, workspace string) ([]permit.NamedFact, error) {
	s, err := b.State(ctx, workspace)
	if err != nil {
		return nil, err
	}
	q := permit.FactQuery{Workspace: workspace}
	var facts permit.FactSet
	err = postgres.InTx(ctx, b.DB, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT v.project, v.site, a.dataset, a.owner, a.image,
				coalesce(l.chip, ''), coalesce(l.product, ''),
				coalesce((SELECT v.workspace || '/' || k.version FROM broker_key k WHERE k.workspace = v.workspace AND k.state = 'active'), '')
			FROM broker_volume v JOIN LATERAL (SELECT * FROM broker_arm a WHERE a.workspace = v.workspace ORDER BY a.generation DESC LIMIT 1) a ON true
			LEFT JOIN LATERAL (SELECT * FROM broker_lease l WHERE l.workspace = v.workspace ORDER BY l.id DESC LIMIT 1) l ON true
			WHERE v.workspace = $1`, workspace).Scan(&q.Project, &q.Site, &q.Dataset, &q.Person, &q.Image, &q.Chip, &q.Product, &q.Key)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("reading what it touches: %w", err)
		}
		if q.Chip != "" {
			q.Host = b.host(q.Site, q.Chip)
		}
		batch := &pgx.Batch{}
		b.Facts.QueueFacts(batch, q, &facts)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("explaining workspace %s: %w", workspace, err)
	}
	return []permit.NamedFact{
		{Name: "permit", Fact: facts.Permit},
		{Name: "project", Fact: facts.Project},
		{Name: "image", Fact: facts.Image},
		{Name: "appraisal", Fact: appraisalFact(s)},
		{Name: "guest", Fact: guestFact(s)},
		{Name: "no_freeze", Fact: facts.NoFreeze},
		{Name: "lease", Fact: leaseFact(s)},
	}, nil
}

func appraisalFact(s State) permit.Fact {
	switch {
	case s.LastRefusal != nil && isAppraisal(s.LastRefusal.Code):
		return permit.Fact{
			Why: "the last evidence was refused (" + s.LastRefusal.Code + "), decision " + s.LastRefusal.ID,
			Fix: "the site operator boots the guest as it was defined, on a registered machine; the decision lists every check",
		}
	case s.Stage == "":
		return permit.Fact{Why: "no evidence has been judged for this arming", Fix: "nobody: the guest sends its evidence when it boots"}
	}
	return permit.Fact{Holds: true, Why: "the guest's evidence was judged and accepted"}
}

// isAppraisal tells the verifier's codes from the broker's own.
func isAppraisal(code string) bool {
	switch code {
	case CodeNonce, CodeBinding, CodeGeneration, CodeSuspended, CodePermit, CodeProject, CodeImage, CodeFreeze, CodeLease, CodeKeyBlob, CodeRate, CodeWorkspace, CodeSecret:
		return false
	}
	return true
}

func guestFact(s State) permit.Fact {
	switch {
	case s.Destruction != "":
		return permit.Fact{Why: s.Destruction, Fix: "nobody: the key is gone for good"}
	case s.Suspended:
		return permit.Fact{Why: "the generation is suspended: " + s.Reason, Fix: "the owner or an operator allows a reboot once the old guest is stopped"}
	case s.Armed:
		return permit.Fact{Holds: true, Why: "the generation is armed for one release"}
	case s.Released:
		return permit.Fact{Holds: true, Why: "the key was released to the guest of this generation"}
	case !s.Prepared:
		return permit.Fact{Why: "no key is prepared yet", Fix: "nobody: siestad prepares it when the workspace is created"}
	}
	return permit.Fact{Why: "no generation is armed", Fix: "nobody: siestad arms the guest before it boots"}
}

func leaseFact(s State) permit.Fact {
	switch {
	case s.LeaseLive:
		return permit.Fact{Holds: true, Why: "held by this workspace's guest until " + s.LeaseUntil.UTC().Format(time.RFC3339)}
	case s.Released:
		return permit.Fact{
			Why: "the lease has ended or run out, and the guest of this generation cannot renew it",
			Fix: "the owner or an operator reboots the workspace or allows a reboot",
		}
	}
	return permit.Fact{Holds: true, Why: "nobody holds the volume"}
}
