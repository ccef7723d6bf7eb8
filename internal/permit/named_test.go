package permit_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

func (r rig) place(kind permit.FreezeKind, value string) (f permit.Freeze, err error) {
	err = postgres.InTx(r.t.Context(), r.db, func(tx pgx.Tx) error {
		f, _, err = r.Place(r.t.Context(), tx, carlo, permit.Freeze{Kind: kind, Value: value, Reason: "incident"})
		return err
	})
	return f, err
}

// A freeze of a name that nothing has stops nothing, and whoever placed it believes otherwise.
func TestFreezesOfNothingAreRefused(t *testing.T) {
	r := newRig(t)
	r.grant(future)
	for _, row := range []struct {
		kind        permit.FreezeKind
		value, says string // what would be right
	}{
		{"chip", "abc", "128 hexadecimal digits"},
		{"chip", strings.Repeat("0g", 64), "128 hexadecimal digits"},
		{"chip", strings.Repeat("ab", 63), "128 hexadecimal digits"},
		{"chip", strings.Repeat("c5", 8), "write it whole"}, // as the first column of a table
		{"chip", strings.Repeat("c5", 8) + strings.Repeat("00", 56), "write it whole"},
		{"product", "Bergamo", "Milan, Genoa, Turin (Genoa for Bergamo and Siena, too)"},
		{"product", "genoa", "Milan, Genoa, Turin"},
		{"product", "TDX", "FMSPC"},
		{"site", "ifac", "these are: ifca"},
		{"host", "node-1", "site/name"},
		{"host", "ifca/node-3", "ifca/node-1, ifca/node-2"},
		{"host", "other/node-1", "ifca/node-1, ifca/node-2"},
		{"image", "img2", "there is no image of this name"},
		{"project", "Flu", "there is no project of this name"},
		{"dataset", "cohort-2", "there is no dataset of this name"},
		{"key", "01jabcdefghjkmnpqrstvwxyz0", "workspace/version"},
		{"key", "01jabcdefghjkmnpqrstvwxyz0/2", "there is no key version of this name"},
		{"key", "01jabcdefghjkmnpqrstvwxyz1/1", "there is no key version of this name"},
		{"person", "rita", "issuer|subject"},
		{"person", "https://id.test", "issuer|subject"},
		{"person", "https://id.test|", "issuer|subject"},
		{"person", rita + " ", "no space around it"},
		{"person", "https://id.test|\u00a0rita", "issuer|subject"},
		{"person", "https://id.test|" + strings.Repeat("é", 65), "issuer|subject"},
		{"moon", "x", "is none of"},
	} {
		_, err := r.place(row.kind, row.value)
		if !errors.Is(err, permit.ErrInvalid) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s %q: got %v, want ErrInvalid that says %q", row.kind, row.value, err, row.says)
		}
	}
	if f := r.facts(query); !f.NoFreeze.Holds {
		t.Errorf("something was frozen: %s", f.NoFreeze.Why)
	}
}

// A person of an issuer whose tokens nobody accepts is nobody, unless he or she is here already.
func TestPeopleAreOfConfiguredIssuers(t *testing.T) {
	r := newRig(t)
	r.grant(future) // to rita, of https://id.test
	r.Service = r.WithIssuers("https://login.example.org/realms/a", "https://login.example.org/realms/b")
	for _, value := range []string{"https://login.example.org/realms/a|ann", "https://login.example.org/realms/b|not-seen-yet", rita} {
		if _, err := r.place("person", value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
	for _, value := range []string{
		"https://login.example.org/realms/a/|ann", "https://login.example.org/realms/A|ann", "https://login.example.org|ann",
		"http://login.example.org/realms/a|ann", "https://id.test|ritz", "https://id.test/|rita",
	} {
		_, err := r.place("person", value)
		if !errors.Is(err, permit.ErrInvalid) || !strings.Contains(err.Error(), "https://login.example.org/realms/a, https://login.example.org/realms/b") {
			t.Errorf("%s: got %v, want ErrInvalid that lists the issuers", value, err)
		}
	}
}

// What a person wrote otherwise, and means the same, is stored as releases compare it.
func TestFreezesAreStoredAsReleasesCompare(t *testing.T) {
	r := newRig(t)
	for _, row := range []struct {
		kind         permit.FreezeKind
		value, store string
	}{
		{"chip", strings.ToUpper(query.Chip), query.Chip},
		{"chip", strings.Repeat("AB", 64), strings.Repeat("ab", 64)}, // that nobody here has seen
		{"chip", strings.Repeat("ab", 8), strings.Repeat("ab", 8) + strings.Repeat("00", 56)},
		{"chip", strings.Repeat("ab", 16), strings.Repeat("ab", 16) + strings.Repeat("00", 48)},
		{"product", "00806F050000", "00806f050000"},
		{"person", "https://id.test|not-seen-yet", "https://id.test|not-seen-yet"},
	} {
		f, err := r.place(row.kind, row.value)
		if err != nil || f.Value != row.store {
			t.Errorf("%s %s: stored as %q, %v", row.kind, row.value, f.Value, err)
		}
	}
	r.grant(future)
	if f := r.facts(query); f.NoFreeze.Holds {
		t.Error("the chip that was written in capitals is not frozen")
	}
}
