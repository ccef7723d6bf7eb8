package permit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// ProjectState says whether a project may hold permits that count.
type ProjectState string

// States of a project.
const (
	ProjectActive ProjectState = "active"
	ProjectClosed ProjectState = "closed"
)

// Project is a research project: its members may work in it while it is active and its dates are valid.
type Project struct {
	ID         string
	Name       string
	State      ProjectState
	ValidUntil time.Time // the earliest end of its ethics and DPIA approvals
	Members    []string  // subjects, "issuer|sub"
	Version    int64
	CreatedAt  time.Time
}

const projectColumns = `id, name, state, valid_until, members, version, created_at`

// CreateProject stores a new active project.
func (s *Service) CreateProject(ctx context.Context, tx pgx.Tx, who audit.Actor, p Project) (Project, audit.ID, error) {
	doing := "creating project " + p.ID
	if err := checkProject(p); err != nil {
		return Project{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	created, err := collectOne[Project](ctx, tx, doing,
		`INSERT INTO project (id, name, state, valid_until, members) VALUES ($1, $2, 'active', $3, $4) RETURNING `+projectColumns,
		p.ID, p.Name, p.ValidUntil, distinct(p.Members))
	if err != nil {
		return Project{}, 0, err
	}
	id, err := s.audit.Append(ctx, tx, projectEntry(who, "project.create", created))
	return created, id, err
}

// UpdateProject replaces name, validity, members and state of the project that still has the given version; ErrState if it
// moved on. From the commit on, no release or renewal succeeds for somebody who is not a member any more.
func (s *Service) UpdateProject(ctx context.Context, tx pgx.Tx, who audit.Actor, p Project, version int64) (Project, audit.ID, error) {
	doing := "updating project " + p.ID
	if err := checkProject(p); err != nil {
		return Project{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	if p.State != ProjectActive && p.State != ProjectClosed {
		return Project{}, 0, fmt.Errorf("%s: %w", doing, invalid("state %q is neither active nor closed", p.State))
	}
	// A closed project stays closed: the rows that its permits stand on must not come back to life.
	updated, err := collect[Project](ctx, tx, doing,
		`UPDATE project SET name = $2, valid_until = $3, members = $4, state = $5, version = version + 1
		 WHERE id = $1 AND version = $6 AND (state = 'active' OR $5 = 'closed') RETURNING `+projectColumns,
		p.ID, p.Name, p.ValidUntil, distinct(p.Members), p.State, version)
	if err != nil {
		return Project{}, 0, err
	}
	if len(updated) == 0 {
		return Project{}, 0, fmt.Errorf("%s: %w: it was changed by somebody else or is closed", doing, ErrState)
	}
	id, err := s.audit.Append(ctx, tx, projectEntry(who, "project.update", updated[0]))
	return updated[0], id, err
}

// Project returns one project.
func (s *Service) Project(ctx context.Context, id string) (Project, error) {
	return collectOne[Project](ctx, s.db, "reading project "+id, `SELECT `+projectColumns+` FROM project WHERE id = $1`, id)
}

// Projects lists up to limit projects after the given id, in order of id. A member other than "" restricts it to that person's.
func (s *Service) Projects(ctx context.Context, member, after string, limit int) ([]Project, error) {
	return collect[Project](ctx, s.db, "listing projects",
		`SELECT `+projectColumns+` FROM project WHERE id > $1 AND ($2 = '' OR members @> ARRAY[$2]) ORDER BY id LIMIT $3`, after, member, limit)
}

// HasMember reports whether the subject belongs to the project.
func (p Project) HasMember(subject string) bool {
	return subject != "" && slices.Contains(p.Members, subject)
}

func checkProject(p Project) error {
	switch {
	case !idPattern.MatchString(p.ID):
		return invalid("id %q must match %s", p.ID, idPattern)
	case strings.TrimSpace(p.Name) == "" || len(p.Name) > 200:
		return invalid("name must have 1 to 200 bytes")
	case p.ValidUntil.IsZero():
		return invalid("valid_until is missing")
	case len(p.Members) > 500:
		return invalid("at most 500 members, got %d", len(p.Members))
	case slices.ContainsFunc(p.Members, func(m string) bool { return m == "" || len(m) > 300 }):
		return invalid("a member must have 1 to 300 bytes")
	}
	return nil
}

func projectEntry(who audit.Actor, action string, p Project) audit.Entry {
	return audit.Entry{
		Actor: who, Action: action, Object: "project/" + p.ID, Project: p.ID, Outcome: audit.Success,
		Details:  map[string]any{"state": string(p.State), "valid_until": p.ValidUntil.UTC().Format(time.RFC3339), "members": len(p.Members)},
		Personal: namePeople("member", p.Members),
	}
}

// namePeople puts subjects into an entry, each under a commitment of its own. An entry has room for so many; of a longer
// list it commits to the hash, and the list itself stays in its row.
func namePeople(as string, list []string) map[string]string {
	const room = 28
	personal := map[string]string{}
	if len(list) > room {
		hash := sha256.New()
		for _, subject := range list {
			fmt.Fprintf(hash, "%d:%s", len(subject), subject)
		}
		personal[as+"s"] = "sha256:" + hex.EncodeToString(hash.Sum(nil))
		return personal
	}
	for i, subject := range list {
		personal[fmt.Sprintf("%s.%d", as, i+1)] = oneLine(subject)
	}
	return personal
}

// oneLine is a text as the audit log takes it. The API admits no others; one that stands in the database all the same must not
// keep anybody from lifting a freeze or ending a permit.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}

func distinct(list []string) []string {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	if sorted == nil {
		return []string{}
	}
	return sorted
}
