package policy

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	ErrState    = errors.New("not possible in this state")
	ErrInvalid  = errors.New("invalid")
	// ErrSamePerson: this takes another person than the one before.
	ErrSamePerson = errors.New("never the same person")
	// ErrWider: the document admits what its site's configuration does not.
	ErrWider = errors.New("it would admit more than the site's configuration does")
)

// Scope is what a document is for.
type Scope struct {
	Kind string // site or project
	Name string
}

func (s Scope) String() string { return s.Kind + " " + s.Name }

// Version is one version of the policy of a scope.
type Version struct {
	ID           string
	ScopeKind    string
	Scope        string
	Version      int
	Document     []byte // SHA-256
	Body         []byte // canonical JSON
	Note         string
	State        string
	CreatedBy    string
	ProposedBy   *string
	ActivatedBy  *string
	RetiringBy   *string
	RetiredBy    *string
	SupersededBy *string
	CreatedAt    time.Time
	ChangedAt    time.Time
}

// Config of a Service. DB and Audit are required; without Sites nothing can be written, without Archive nothing tested.
type Config struct {
	DB    *pgxpool.Pool
	Audit *audit.Recorder
	// Sites are the policies of the configured sites, which no document can widen.
	Sites map[string]attest.Policy
	// Archive has the decisions that a draft is tested on.
	Archive *keybroker.Archive
	// Verifier judges them again.
	Verifier keybroker.Verifier
	// FloorKeys sign floor files.
	FloorKeys []ed25519.PublicKey
	// Host names the machine of a chip.
	Host keybroker.HostOf
	// Now ends the period of a test. Default time.Now.
	Now func() time.Time
}

// Service keeps policies and floors. It implements keybroker.Policies.
type Service struct {
	Config
	floors floorCache
}

var _ keybroker.Policies = (*Service)(nil)

// New returns a service; it does no I/O.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{Config: c}
}

func newID() string { return strings.ToLower(ulid.Make().String()) }

// fault is ErrInvalid in the words that people read.
type fault string

func (f fault) Error() string { return string(f) }
func (fault) Unwrap() error   { return ErrInvalid }

func invalid(format string, args ...any) error { return fault(fmt.Sprintf(format, args...)) }

var scopePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,62}$`)

const maxDocument = 256 << 10

const versionColumns = `v.id, v.scope_kind, v.scope, v.version, v.document, d.body, v.note, v.state, v.created_by, v.proposed_by, v.activated_by,
	v.retiring_by, v.retired_by, v.superseded_by, v.created_at, v.changed_at`

const versionFrom = ` FROM policy_version v JOIN policy_document d ON d.sha256 = v.document`

// Create stores a draft.
func (s *Service) Create(ctx context.Context, tx pgx.Tx, who audit.Actor, scope Scope, document []byte, note string) (Version, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("writing a policy of %s: %w", scope, err) }
	switch {
	case who.Subject == "":
		return Version{}, 0, doing(invalid("a policy is written by somebody"))
	case scope.Kind != "site" && scope.Kind != "project" || !scopePattern.MatchString(scope.Name):
		return Version{}, 0, doing(invalid("the scope is a site or a project"))
	case strings.TrimSpace(note) == "" || len(note) > 500:
		return Version{}, 0, doing(invalid("note must have 1 to 500 bytes"))
	case len(document) > maxDocument:
		return Version{}, 0, doing(invalid("the document has more than %d bytes", maxDocument))
	}
	var p attest.Policy // in any order of members; what is stored and named is the canonical form
	if err := p.UnmarshalJSON(document); err != nil {
		return Version{}, 0, doing(invalid("%s", err))
	}
	if err := s.admissible(ctx, tx, scope, p); err != nil {
		return Version{}, 0, doing(err)
	}
	body := p.Canonical()
	hash := sha256.Sum256(body)
	if err := oneByOne(ctx, tx, scope); err != nil {
		return Version{}, 0, doing(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO policy_document (sha256, body) VALUES ($1, $2) ON CONFLICT DO NOTHING`, hash[:], body); err != nil {
		return Version{}, 0, doing(err)
	}
	id := newID()
	if _, err := tx.Exec(ctx, `INSERT INTO policy_version (id, scope_kind, scope, version, document, note, state, created_by)
		SELECT $1, $2, $3, coalesce(max(version), 0) + 1, $4, $5, 'draft', $6 FROM policy_version WHERE scope_kind = $2 AND scope = $3`,
		id, scope.Kind, scope.Name, hash[:], note, who.Subject); err != nil {
		return Version{}, 0, doing(err)
	}
	v, err := s.lock(ctx, tx, id)
	if err != nil {
		return Version{}, 0, doing(err)
	}
	return s.record(ctx, tx, who, "policy.create", v, nil)
}

// oneByOne lets one transaction at a time count the versions of a scope, or say which of them is in force.
func oneByOne(ctx context.Context, tx pgx.Tx, scope Scope) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('siestad/policy/' || $1 || '/' || $2, 0))`, scope.Kind, scope.Name); err != nil {
		return fmt.Errorf("waiting for another change of its scope: %w", err)
	}
	return nil
}

// Propose asks others to activate a draft. From now on it is a matter of who has not written it.
func (s *Service) Propose(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Version, audit.ID, error) {
	v, err := s.step(ctx, tx, id, "draft", func(v Version, p attest.Policy) error {
		return s.admissible(ctx, tx, Scope{v.ScopeKind, v.Scope}, p)
	}, `UPDATE policy_version SET state = 'proposed', proposed_by = $2, changed_at = now() WHERE id = $1 AND state = 'draft' AND $2 <> ''`, who.Subject)
	if err != nil {
		return Version{}, 0, fmt.Errorf("proposing policy %s: %w", id, err)
	}
	return s.record(ctx, tx, who, "policy.propose", v, nil)
}

// Activate puts a proposed version into force, in the place of the one before it. Whoever wrote or proposed it gets
// ErrSamePerson.
func (s *Service) Activate(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Version, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("activating policy %s: %w", id, err) }
	v, err := s.lock(ctx, tx, id)
	if err != nil {
		return Version{}, 0, doing(err)
	}
	if who.Subject == "" || v.CreatedBy == who.Subject || v.ProposedBy != nil && *v.ProposedBy == who.Subject {
		return Version{}, 0, doing(ErrSamePerson)
	}
	if v.State != "proposed" {
		return Version{}, 0, doing(fmt.Errorf("%w: it is %s", ErrState, v.State))
	}
	p, err := attest.ParsePolicy(v.Body)
	if err != nil {
		return Version{}, 0, doing(err)
	}
	if err := s.admissible(ctx, tx, Scope{v.ScopeKind, v.Scope}, p); err != nil {
		return Version{}, 0, doing(err)
	}
	if err := oneByOne(ctx, tx, Scope{v.ScopeKind, v.Scope}); err != nil {
		return Version{}, 0, doing(err)
	}
	var before string
	var number int
	err = tx.QueryRow(ctx, `SELECT id, version FROM policy_version WHERE scope_kind = $1 AND scope = $2 AND state = 'active' FOR UPDATE`,
		v.ScopeKind, v.Scope).Scan(&before, &number)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return Version{}, 0, doing(err)
	case number > v.Version:
		return Version{}, 0, doing(fmt.Errorf("%w: version %d is in force, and a policy never goes back", ErrState, number))
	default:
		if _, err := tx.Exec(ctx, `UPDATE policy_version SET state = 'retired', retired_by = $2, superseded_by = $3, changed_at = now()
			WHERE id = $1 AND state = 'active'`, before, who.Subject, id); err != nil {
			return Version{}, 0, doing(err)
		}
	}
	v, err = s.step(ctx, tx, id, "proposed", nil,
		`UPDATE policy_version SET state = 'active', activated_by = $2, changed_at = now() WHERE id = $1 AND state = 'proposed'`, who.Subject)
	if err != nil {
		return Version{}, 0, doing(err)
	}
	return s.record(ctx, tx, who, "policy.activate", v, map[string]any{"supersedes": before})
}

// Retire ends a version. One that is in force stays so until a second person asks for the same: its end admits more.
func (s *Service) Retire(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Version, audit.ID, error) {
	doing := func(err error) error { return fmt.Errorf("retiring policy %s: %w", id, err) }
	v, err := s.lock(ctx, tx, id)
	if err != nil {
		return Version{}, 0, doing(err)
	}
	action, update := "policy.retire", `UPDATE policy_version SET state = 'retired', retired_by = $2, changed_at = now() WHERE id = $1 AND $2 <> ''`
	switch {
	case v.State == "retired":
		return Version{}, 0, doing(fmt.Errorf("%w: it is retired", ErrState))
	case v.State == "active" && v.RetiringBy == nil:
		action, update = "policy.ask_retire", `UPDATE policy_version SET retiring_by = $2, changed_at = now() WHERE id = $1 AND $2 <> ''`
	case v.State == "active" && *v.RetiringBy == who.Subject:
		return Version{}, 0, doing(ErrSamePerson)
	}
	if v, err = s.step(ctx, tx, id, v.State, nil, update, who.Subject); err != nil {
		return Version{}, 0, doing(err)
	}
	return s.record(ctx, tx, who, action, v, nil)
}

// step is one guarded change of a version that is in the state from.
func (s *Service) step(ctx context.Context, tx pgx.Tx, id, from string, check func(Version, attest.Policy) error, update, subject string) (Version, error) {
	v, err := s.lock(ctx, tx, id)
	if err != nil {
		return Version{}, err
	}
	if v.State != from {
		return Version{}, fmt.Errorf("%w: it is %s", ErrState, v.State)
	}
	if check != nil {
		p, err := attest.ParsePolicy(v.Body)
		if err != nil {
			return Version{}, err
		}
		if err := check(v, p); err != nil {
			return Version{}, err
		}
	}
	tag, err := tx.Exec(ctx, update, id, subject)
	if err != nil {
		return Version{}, err
	}
	if tag.RowsAffected() != 1 {
		return Version{}, ErrState
	}
	return s.lock(ctx, tx, id)
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id string) (Version, error) {
	return one(ctx, tx, `SELECT `+versionColumns+versionFrom+` WHERE v.id = $1 FOR UPDATE OF v`, id)
}

func (s *Service) record(ctx context.Context, tx pgx.Tx, who audit.Actor, action string, v Version, more map[string]any) (Version, audit.ID, error) {
	e := audit.Entry{
		Actor: who, Action: action, Object: "policy/" + v.ID, Outcome: audit.Success,
		Details: map[string]any{"scope": v.ScopeKind + "/" + v.Scope, "version": v.Version, "document": fmt.Sprintf("%x", v.Document), "state": v.State},
	}
	for name, value := range more {
		if value != "" {
			e.Details[name] = value
		}
	}
	if v.ScopeKind == "project" {
		e.Project = v.Scope
	}
	id, err := s.Audit.Append(ctx, tx, e)
	if err != nil {
		return Version{}, 0, fmt.Errorf("recording what became of policy %s: %w", v.ID, err)
	}
	return v, id, nil
}

// Get returns one version.
func (s *Service) Get(ctx context.Context, id string) (Version, error) {
	v, err := one(ctx, s.DB, `SELECT `+versionColumns+versionFrom+` WHERE v.id = $1`, id)
	if err != nil {
		return Version{}, fmt.Errorf("reading policy %s: %w", id, err)
	}
	return v, nil
}

// Filter narrows a list of versions; zero fields do not.
type Filter struct {
	Kind, Scope, State string
	Before             string // id: older ones than this
	Limit              int
}

// List lists versions, newest first.
func (s *Service) List(ctx context.Context, f Filter) ([]Version, error) {
	rows, err := s.DB.Query(ctx, `SELECT `+versionColumns+versionFrom+`
		WHERE ($1 = '' OR v.scope_kind = $1) AND ($2 = '' OR v.scope = $2) AND ($3 = '' OR v.state = $3) AND ($4 = '' OR v.id < $4)
		ORDER BY v.id DESC LIMIT $5`, f.Kind, f.Scope, f.State, f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("listing policies: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Version])
	if err != nil {
		return nil, fmt.Errorf("listing policies: %w", err)
	}
	return list, nil
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func one(ctx context.Context, db querier, sql string, args ...any) (Version, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Version{}, err
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Version])
	if errors.Is(err, pgx.ErrNoRows) {
		return Version{}, ErrNotFound
	}
	return v, err
}
