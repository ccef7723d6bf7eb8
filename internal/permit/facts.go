package permit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Fact is one condition of a key release. The zero value does not hold.
type Fact struct {
	Holds bool
	Why   string // one sentence: what was found
	Fix   string // who can change it and how; empty when the fact holds
}

// NamedFact is a fact as `explain` shows it.
type NamedFact struct {
	Name string // permit, project, image, appraisal, guest, no_freeze, lease
	Fact
}

// FactQuery names everything that a release touches. Chip is lower-case hex and
// may be empty when no evidence has been seen yet.
type FactQuery struct {
	Workspace string
	Project   string
	Dataset   string
	Person    string
	Image     string
	Site      string
	Chip      string
	// Host (site/name), Product and Key (workspace/version) may be empty when they are not known.
	Host    string
	Product string
	Key     string
}

// FactSet is the human part of the invariant, with the name of the floor that two people put into force: until the
// transaction ends neither changes.
type FactSet struct {
	Permit   Fact
	Project  Fact
	Image    Fact
	NoFreeze Fact
	Floor    []byte // SHA-256 of the security floor in force; nil for none
}

// factsQuery reads the permission rows in one round trip and locks those that exist against change until the
// caller's transaction ends. SELECT … FOR SHARE cannot be combined with outer joins on the nullable side or with
// aggregates, so each row is locked in a CTE of its own and missing rows come back as NULL. What ends at a time has ended
// when this runs, not when the transaction began: it may have waited at the gate since.
const factsQuery = `
WITH lock_project AS (
  SELECT id, state, valid_until, valid_until > clock_timestamp() AS valid, $3 = ANY (members) AS member FROM project WHERE id = $1 FOR SHARE),
lock_permit AS (
  SELECT id FROM permit
  WHERE project = $1 AND dataset = $2 AND $3 = ANY (people)
    AND state = 'live' AND until > clock_timestamp()
  ORDER BY until DESC LIMIT 1 FOR SHARE),
lock_image AS (
  SELECT id, state FROM image WHERE id = $4 FOR SHARE),
freezes AS (
  SELECT kind FROM freeze_order WHERE state = 'live' AND (
       (kind = 'person'  AND value = $3)  OR (kind = 'project' AND value = $1)
    OR (kind = 'dataset' AND value = $2) OR (kind = 'image'   AND value = $4)
    OR (kind = 'site'    AND value = $5)    OR (kind = 'chip' AND $6 <> '' AND value = $6)
    OR (kind = 'host' AND $7 <> '' AND value = $7) OR (kind = 'product' AND $8 <> '' AND value = $8)
    OR (kind = 'key'  AND $9 <> '' AND value = $9))
  ORDER BY id LIMIT 1)
SELECT (SELECT id FROM lock_permit), (SELECT state FROM lock_project), (SELECT valid FROM lock_project),
       (SELECT member FROM lock_project), (SELECT valid_until FROM lock_project), (SELECT state FROM lock_image), (SELECT kind FROM freezes),
       (SELECT sha256 FROM security_floor WHERE state = 'active')`

// freezeGate is the advisory lock that orders new freezes against releases: a freeze inserts a row that no release can
// lock beforehand, so placing one takes the gate exclusively and reading the facts takes it shared. Releases do not
// wait for each other; a freeze waits for the releases under way, and none begins before the freeze has committed.
const freezeGate = 0x73696573 // "sies"

// CloseGate makes every later release wait for the end of tx, and tx for the releases under way. It is for whatever a
// release reads and cannot lock beforehand: a new freeze, a new security floor.
func CloseGate(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", freezeGate); err != nil {
		return fmt.Errorf("waiting for releases under way: %w", err)
	}
	return nil
}

// ReleaseFacts reads the four human facts inside tx. An error means that nothing is known, which callers treat as a refusal.
func (s *Service) ReleaseFacts(ctx context.Context, tx pgx.Tx, q FactQuery) (FactSet, error) {
	var set FactSet
	batch := &pgx.Batch{}
	s.QueueFacts(batch, q, &set)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return FactSet{}, fmt.Errorf("reading the facts of workspace %s: %w", q.Workspace, err)
	}
	return set, nil
}

// QueueFacts is ReleaseFacts as two statements of a batch, which the caller sends in its transaction. Until the batch has
// been read without an error set is what it was: the zero value, in which no fact holds.
func (s *Service) QueueFacts(batch *pgx.Batch, q FactQuery, set *FactSet) {
	batch.Queue("SELECT pg_advisory_xact_lock_shared($1)", freezeGate)
	// Numbered, not named: rewriting names costs more than all the rest that the client does for this query.
	batch.Queue(factsQuery, q.Project, q.Dataset, q.Person, q.Image, q.Site, q.Chip, q.Host, q.Product, q.Key).QueryRow(func(row pgx.Row) error {
		var (
			permitID, projectState, imageState, frozen *string
			projectValid, member                       *bool
			validUntil                                 *time.Time
			floor                                      []byte
		)
		if err := row.Scan(&permitID, &projectState, &projectValid, &member, &validUntil, &imageState, &frozen, &floor); err != nil {
			return err
		}
		*set = FactSet{
			Permit:   permitFact(permitID),
			Project:  projectFact(q.Project, projectState, projectValid, member, validUntil),
			Image:    imageFact(imageState),
			NoFreeze: freezeFact(frozen),
			Floor:    floor,
		}
		return nil
	})
}

func permitFact(id *string) Fact {
	if id == nil {
		return Fact{
			Why: "no live permit covers this person, dataset and project",
			Fix: "the dataset's custodian grants a permit",
		}
	}
	return Fact{Holds: true, Why: "permit " + *id + " is live"}
}

func projectFact(id string, state *string, valid, member *bool, until *time.Time) Fact {
	switch {
	case state == nil:
		return Fact{Why: "project " + id + " does not exist", Fix: "an operator creates the project"}
	case *state != string(ProjectActive):
		return Fact{Why: "project " + id + " is " + *state, Fix: "an operator opens a new project"}
	case valid == nil || !*valid:
		return Fact{
			Why: "the validity of project " + id + " ended on " + until.UTC().Format(time.DateOnly),
			Fix: "an operator extends the project once its ethics and DPIA dates are renewed",
		}
	case member == nil || !*member:
		return Fact{
			Why: "whoever the workspace belongs to is not a member of project " + id,
			Fix: "an operator adds that person to the members of the project",
		}
	}
	return Fact{Holds: true, Why: "project has this member and is active until " + until.UTC().Format(time.DateOnly)}
}

func imageFact(state *string) Fact {
	switch {
	case state == nil:
		return Fact{Why: "the image does not exist", Fix: "an operator registers the image"}
	case *state != "approved":
		return Fact{Why: "the image is " + *state, Fix: "a custodian approves the image"}
	}
	return Fact{Holds: true, Why: "the image is approved"}
}

func freezeFact(kind *string) Fact {
	if kind != nil {
		return Fact{Why: "a freeze on the " + *kind + " is live", Fix: "a custodian or operator lifts the freeze"}
	}
	return Fact{Holds: true, Why: "nothing it touches is frozen"}
}
