package permit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Dataset is one version of a dataset and the custodian who decides over it.
type Dataset struct {
	ID        string
	Title     string
	Version   string
	Custodian string // subject, "issuer|sub"
	CreatedAt time.Time
}

const datasetColumns = `id, title, version, custodian, created_at`

// CreateDataset stores a new dataset version. Its custodian is fixed for life.
func (s *Service) CreateDataset(ctx context.Context, tx pgx.Tx, who audit.Actor, d Dataset) (Dataset, audit.ID, error) {
	doing := "creating dataset " + d.ID
	var err error
	switch {
	case !idPattern.MatchString(d.ID):
		err = invalid("id %q must match %s", d.ID, idPattern)
	case strings.TrimSpace(d.Title) == "" || len(d.Title) > 200:
		err = invalid("title must have 1 to 200 bytes")
	case strings.TrimSpace(d.Version) == "" || len(d.Version) > 64:
		err = invalid("version must have 1 to 64 bytes")
	case d.Custodian == "" || len(d.Custodian) > 300:
		err = invalid("custodian must have 1 to 300 bytes")
	}
	if err != nil {
		return Dataset{}, 0, fmt.Errorf("%s: %w", doing, err)
	}
	created, err := collectOne[Dataset](ctx, tx, doing,
		`INSERT INTO dataset (id, title, version, custodian) VALUES ($1, $2, $3, $4) RETURNING `+datasetColumns,
		d.ID, d.Title, d.Version, d.Custodian)
	if err != nil {
		return Dataset{}, 0, err
	}
	id, err := s.audit.Append(ctx, tx, audit.Entry{
		Actor: who, Action: "dataset.create", Object: "dataset/" + d.ID, Outcome: audit.Success,
		Details: map[string]any{"version": d.Version}, Personal: map[string]string{"custodian": d.Custodian},
	})
	return created, id, err
}

// Dataset returns one dataset version.
func (s *Service) Dataset(ctx context.Context, id string) (Dataset, error) {
	return collectOne[Dataset](ctx, s.db, "reading dataset "+id, `SELECT `+datasetColumns+` FROM dataset WHERE id = $1`, id)
}

// Datasets lists up to limit dataset versions after the given id, in order of id.
func (s *Service) Datasets(ctx context.Context, after string, limit int) ([]Dataset, error) {
	return collect[Dataset](ctx, s.db, "listing datasets",
		`SELECT `+datasetColumns+` FROM dataset WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
}
