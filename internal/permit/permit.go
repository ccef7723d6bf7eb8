package permit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// State of a permit.
type State string

// States of a permit. Ended is final.
const (
	Live  State = "live"
	Ended State = "ended"
)

// Permit lets people of one project use one dataset version until a date.
type Permit struct {
	ID        string
	Project   string
	Dataset   string
	People    []string // subjects
	State     State
	Until     time.Time
	GrantedBy string
	EndedBy   *string
	CreatedAt time.Time
}

const permitColumns = `id, project, dataset, people, state, until, granted_by, ended_by, created_at`

// Grant stores a live permit. Only the dataset's custodian may grant; anybody else gets ErrNotCustodian.
func (s *Service) Grant(ctx context.Context, tx pgx.Tx, who audit.Actor, p Permit) (Permit, audit.ID, error) {
	doing := fmt.Sprintf("granting project %s a permit for dataset %s", p.Project, p.Dataset)
	if len(p.People) == 0 || len(p.People) > 100 || slices.ContainsFunc(p.People, func(m string) bool { return m == "" || len(m) > 300 }) {
		return Permit{}, 0, fmt.Errorf("%s: %w", doing, invalid("people must name 1 to 100 subjects of at most 300 bytes"))
	}
	if p.Until.IsZero() {
		return Permit{}, 0, fmt.Errorf("%s: %w", doing, invalid("until is missing"))
	}
	dataset, err := collectOne[Dataset](ctx, tx, doing, `SELECT `+datasetColumns+` FROM dataset WHERE id = $1 FOR SHARE`, p.Dataset)
	if err != nil {
		return Permit{}, 0, err
	}
	if who.Subject == "" || dataset.Custodian != who.Subject {
		return Permit{}, 0, fmt.Errorf("%s: %w", doing, ErrNotCustodian)
	}
	project, err := collectOne[Project](ctx, tx, doing, `SELECT `+projectColumns+` FROM project WHERE id = $1 FOR SHARE`, p.Project)
	if err != nil {
		return Permit{}, 0, err
	}
	for _, person := range p.People {
		if !project.HasMember(person) {
			return Permit{}, 0, fmt.Errorf("%s: %w", doing, invalid("a person named is not a member of project %s; an operator adds members first", p.Project))
		}
	}
	granted, err := collectOne[Permit](ctx, tx, doing,
		`INSERT INTO permit (id, project, dataset, people, state, until, granted_by) VALUES ($1, $2, $3, $4, 'live', $5, $6) RETURNING `+permitColumns,
		newID(), p.Project, p.Dataset, distinct(p.People), p.Until, who.Subject)
	if err != nil {
		return Permit{}, 0, err
	}
	id, err := s.audit.Append(ctx, tx, permitEntry(who, "permit.grant", granted))
	return granted, id, err
}

// End ends a live permit for good. From the commit on, no release or renewal that rests on it succeeds.
func (s *Service) End(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (Permit, audit.ID, error) {
	doing := "ending permit " + id
	p, err := collectOne[Permit](ctx, tx, doing, `SELECT `+permitColumns+` FROM permit WHERE id = $1 FOR UPDATE`, id)
	if err != nil {
		return Permit{}, 0, err
	}
	dataset, err := s.datasetIn(ctx, tx, p.Dataset)
	if err != nil {
		return Permit{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	if who.Subject == "" || dataset.Custodian != who.Subject {
		return Permit{}, 0, fmt.Errorf("%s: %w", doing, ErrNotCustodian)
	}
	ended, err := collect[Permit](ctx, tx, doing,
		`UPDATE permit SET state = 'ended', ended_by = $2 WHERE id = $1 AND state = 'live' RETURNING `+permitColumns, id, who.Subject)
	if err != nil {
		return Permit{}, 0, err
	}
	if len(ended) == 0 {
		return Permit{}, 0, fmt.Errorf("%s: %w: it has ended already", doing, ErrState)
	}
	entry, err := s.audit.Append(ctx, tx, permitEntry(who, "permit.end", ended[0]))
	return ended[0], entry, err
}

// Permit returns one permit.
func (s *Service) Permit(ctx context.Context, id string) (Permit, error) {
	return collectOne[Permit](ctx, s.db, "reading permit "+id, `SELECT `+permitColumns+` FROM permit WHERE id = $1`, id)
}

// Permits lists up to limit permits after the given id, in order of id; project "" means all, person "" means all.
func (s *Service) Permits(ctx context.Context, project, person, after string, limit int) ([]Permit, error) {
	return collect[Permit](ctx, s.db, "listing permits",
		`SELECT `+permitColumns+` FROM permit
		 WHERE id > $1 AND ($2 = '' OR project = $2) AND ($3 = '' OR $3 = ANY (people)) ORDER BY id LIMIT $4`, after, project, person, limit)
}

func (s *Service) datasetIn(ctx context.Context, tx pgx.Tx, id string) (Dataset, error) {
	return collectOne[Dataset](ctx, tx, "reading dataset "+id, `SELECT `+datasetColumns+` FROM dataset WHERE id = $1`, id)
}

func permitEntry(who audit.Actor, action string, p Permit) audit.Entry {
	return audit.Entry{
		Actor: who, Action: action, Object: "permit/" + p.ID, Project: p.Project, Outcome: audit.Success,
		Details:  map[string]any{"dataset": p.Dataset, "until": p.Until.UTC().Format(time.RFC3339), "people": len(p.People)},
		Personal: namePeople("person", p.People),
	}
}
