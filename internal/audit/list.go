package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// Filter narrows a list. Empty fields do not narrow.
type Filter struct {
	Action  string
	Object  string
	Project string
	Outcome Outcome
	Since   time.Time // inclusive
	Until   time.Time // exclusive
	// Before is the keyset cursor: only entries with a lower index. Nil begins
	// with the newest. A page whose last index is 0 is the last page.
	Before *int64
	Limit  int // 1 to 1000; 100 if zero
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Record is a stored entry.
type Record struct {
	Index   int64
	ID      ID
	Time    time.Time
	Actor   Actor // Subject and Name are empty once their openings are deleted
	Action  string
	Object  string
	Project string
	Outcome Outcome
	Code    string
	Request string
	Details json.RawMessage // as stored; nil if there were none
	// Personal holds the opened values that still can be opened.
	Personal map[string]string
	// Commitments holds what the body has in place of personal data, by field:
	// actor.subject, actor.name, personal.<field>.
	Commitments map[string]string
	// Body is the leaf: exactly these bytes are in the tree.
	Body     []byte
	LeafHash tlog.Hash
}

const (
	sqlGet = `SELECT e.leaf_index, e.id, e.body, o.openings
FROM audit_entry e LEFT JOIN audit_opening o USING (leaf_index) WHERE e.leaf_index = $1`
	sqlList = `SELECT e.leaf_index, e.id, e.body, o.openings
FROM audit_entry e LEFT JOIN audit_opening o USING (leaf_index)`
)

// query builds the list's statement: newest first, by index.
func (f Filter) query() (string, []any, error) {
	limit := f.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	if limit < 1 || limit > maxLimit {
		return "", nil, fmt.Errorf("limit must be 1 to %d", maxLimit)
	}
	switch f.Outcome {
	case "", Success, Refused, Failed:
	default:
		return "", nil, fmt.Errorf("outcome %q is unknown", f.Outcome)
	}
	var where []string
	var args []any
	add := func(condition string, value any) {
		args = append(args, value)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	for _, c := range []struct{ column, value string }{
		{"e.action", f.Action}, {"e.object", f.Object}, {"e.project", f.Project}, {"e.outcome", string(f.Outcome)},
	} {
		if c.value != "" {
			add(c.column+" = $%d", c.value)
		}
	}
	if !f.Since.IsZero() {
		add("e.at >= $%d", f.Since)
	}
	if !f.Until.IsZero() {
		add("e.at < $%d", f.Until)
	}
	if f.Before != nil {
		add("e.leaf_index < $%d", *f.Before)
	}
	sql := sqlList
	if len(where) > 0 {
		sql += " WHERE " + strings.Join(where, " AND ")
	}
	args = append(args, limit)
	return sql + fmt.Sprintf(" ORDER BY e.leaf_index DESC LIMIT $%d", len(args)), args, nil
}

// List returns entries that have a place in the tree, newest first.
func (l *Log) List(ctx context.Context, f Filter) ([]Record, error) {
	sql, args, err := f.query()
	if err != nil {
		return nil, fmt.Errorf("listing audit entries: %w", err)
	}
	rows, err := l.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("listing audit entries: %w", err)
	}
	records, err := pgx.CollectRows(rows, scanRecord)
	if err != nil {
		return nil, fmt.Errorf("listing audit entries: %w", err)
	}
	return records, nil
}

// Get returns the entry at an index.
func (l *Log) Get(ctx context.Context, index int64) (Record, error) {
	rows, err := l.db.Query(ctx, sqlGet, index)
	if err != nil {
		return Record{}, fmt.Errorf("reading audit entry %d: %w", index, err)
	}
	record, err := pgx.CollectExactlyOneRow(rows, scanRecord)
	if errors.Is(err, pgx.ErrNoRows) {
		return Record{}, fmt.Errorf("reading audit entry %d: %w", index, ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading audit entry %d: %w", index, err)
	}
	return record, nil
}

func scanRecord(row pgx.CollectableRow) (Record, error) {
	var r Record
	var openings []byte
	if err := row.Scan(&r.Index, &r.ID, &r.Body, &openings); err != nil {
		return Record{}, err
	}
	r.LeafHash = tlog.RecordHash(r.Body)
	if err := r.decode(openings); err != nil {
		return Record{}, fmt.Errorf("reading body of entry %d: %w", r.Index, err)
	}
	return r, nil
}

// decode fills the record from its body, never from the columns beside it: the
// body is what the tree vouches for.
func (r *Record) decode(openings []byte) error {
	var b struct {
		Version  int               `json:"v"`
		Time     time.Time         `json:"time"`
		Actor    bodyActor         `json:"actor"`
		Action   string            `json:"action"`
		Object   string            `json:"object"`
		Project  string            `json:"project"`
		Outcome  Outcome           `json:"outcome"`
		Code     string            `json:"code"`
		Request  string            `json:"request"`
		Details  json.RawMessage   `json:"details"`
		Personal map[string]string `json:"personal"`
	}
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return err
	}
	if b.Version < 1 || b.Version > schemaVersion {
		return fmt.Errorf("schema version %d is unknown", b.Version)
	}
	r.Time, r.Actor.Kind = b.Time, b.Actor.Kind
	r.Action, r.Object, r.Project = b.Action, b.Object, b.Project
	r.Outcome, r.Code, r.Request, r.Details = b.Outcome, b.Code, b.Request, b.Details
	r.Commitments = make(map[string]string, 2+len(b.Personal))
	if b.Actor.Subject != "" {
		r.Commitments[openSubject] = b.Actor.Subject
	}
	if b.Actor.Name != "" {
		r.Commitments[openName] = b.Actor.Name
	}
	for field, value := range b.Personal {
		if value != "" {
			r.Commitments[openPersonal+field] = value
		}
	}
	if openings == nil {
		return nil
	}
	var opened map[string]opening
	if err := json.Unmarshal(openings, &opened); err != nil {
		return fmt.Errorf("reading openings: %w", err)
	}
	for field, o := range opened {
		// An opening that does not open its commitment is not shown: somebody
		// changed it, and the log does not vouch for it.
		if commit(field, o.Salt, o.Value) != r.Commitments[field] {
			continue
		}
		switch name, personal := strings.CutPrefix(field, openPersonal); {
		case personal:
			if r.Personal == nil {
				r.Personal = make(map[string]string, len(b.Personal))
			}
			r.Personal[name] = o.Value
		case field == openSubject:
			r.Actor.Subject = o.Value
		case field == openName:
			r.Actor.Name = o.Value
		}
	}
	return nil
}

const sqlErase = `DELETE FROM audit_opening WHERE convert_from(openings, 'UTF8')::json #>> ARRAY['actor.subject', 'value'] = $1`

// Erase deletes what opens the commitments of every sequenced entry whose actor
// is the given subject, and returns how many entries lost their openings. The
// tree is untouched; the person can no longer be found in it. It reads every
// opening: erasure is rare.
func Erase(ctx context.Context, tx pgx.Tx, subject string) (int64, error) {
	tag, err := tx.Exec(ctx, sqlErase, subject)
	if err != nil {
		return 0, fmt.Errorf("erasing openings: %w", err)
	}
	return tag.RowsAffected(), nil
}
