package permit_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

func TestProjectUpdateNeedsTheCurrentVersionAndNeverReopens(t *testing.T) {
	r := newRig(t)
	p, err := r.Project(t.Context(), "flu")
	if err != nil {
		t.Fatal(err)
	}
	update := func(state permit.ProjectState, version int64) error {
		return postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error {
			p.State = state
			_, _, err := r.UpdateProject(t.Context(), tx, olga, p, version)
			return err
		})
	}
	if err := update(permit.ProjectActive, p.Version+1); !errors.Is(err, permit.ErrState) {
		t.Errorf("an update of another version: got %v", err)
	}
	if err := update(permit.ProjectClosed, p.Version); err != nil {
		t.Fatal(err)
	}
	if err := update(permit.ProjectActive, p.Version+1); !errors.Is(err, permit.ErrState) {
		t.Errorf("a closed project reopens: got %v", err)
	}
}

func TestInvalidInputSaysWhatIsWrong(t *testing.T) {
	r := newRig(t)
	for name, try := range map[string]func(pgx.Tx) error{
		"project id": func(tx pgx.Tx) error {
			_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: "No Spaces", Name: "x", ValidUntil: future})
			return err
		},
		"project without dates": func(tx pgx.Tx) error {
			_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: "ok", Name: "x"})
			return err
		},
		"dataset without custodian": func(tx pgx.Tx) error {
			_, _, err := r.CreateDataset(t.Context(), tx, olga, permit.Dataset{ID: "d", Title: "x", Version: "1"})
			return err
		},
		"freeze of nothing": func(tx pgx.Tx) error {
			_, _, err := r.Place(t.Context(), tx, olga, permit.Freeze{Kind: "moon", Value: "x", Reason: "y"})
			return err
		},
		"permit for nobody": func(tx pgx.Tx) error {
			_, _, err := r.Grant(t.Context(), tx, carlo, permit.Permit{Project: "flu", Dataset: "cohort-1", Until: future})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := postgres.InTx(t.Context(), r.db, try); !errors.Is(err, permit.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
	err := postgres.InTx(t.Context(), r.db, func(tx pgx.Tx) error {
		_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: "flu", Name: "again", ValidUntil: future})
		return err
	})
	if !errors.Is(err, permit.ErrExists) {
		t.Errorf("a second project of the same id: got %v", err)
	}
}

func TestListsPageByID(t *testing.T) {
	r := newRig(t)
	r.tx(func(tx pgx.Tx) error {
		_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: "zika", Name: "Zika", ValidUntil: future})
		return err
	})
	for name, row := range map[string]struct {
		member, after string
		want          []string
	}{
		"all":        {"", "", []string{"flu", "zika"}},
		"after flu":  {"", "flu", []string{"zika"}},
		"of rita":    {rita, "", []string{"flu"}},
		"of nobody":  {"nobody", "", nil},
		"after last": {"", "zika", nil},
	} {
		list, err := r.Projects(t.Context(), row.member, row.after, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list {
			got = append(got, p.ID)
		}
		if len(got) != len(row.want) {
			t.Errorf("%s: got %v, want %v", name, got, row.want)
		}
	}
}

// What an entry of the log can hold must never decide whether a person can be named.
func TestLongListsAndTextsFitTheirEntries(t *testing.T) {
	r := newRig(t)
	members := make([]string, 500)
	for i := range members {
		members[i] = fmt.Sprintf("https://id.test/%s|%03d", strings.Repeat("x", 280), i)
	}
	for n, list := range map[string][]string{"few": members[:28], "many": members} {
		r.tx(func(tx pgx.Tx) error {
			_, _, err := r.CreateProject(t.Context(), tx, olga, permit.Project{ID: n, Name: "x", ValidUntil: future, Members: list})
			return err
		})
	}
	r.tx(func(tx pgx.Tx) error {
		_, _, err := r.Place(t.Context(), tx, olga, permit.Freeze{Kind: "person", Value: members[0], Reason: strings.Repeat("r", 500)})
		return err
	})
}
