package authz

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden table anew")

const me = "https://issuer|me"

// objects are what a principal can meet: nothing of hers, her project's, her own, in her custody, made by her.
var objects = []struct {
	name string
	Object
}{
	{"other", Object{Kind: "thing", ID: "1", Owner: "x", Custodian: "x", Authors: []string{"x"}, Members: []string{"x"}}},
	{"project", Object{Kind: "thing", ID: "1", Owner: "x", Custodian: "x", Members: []string{"x", me}}},
	{"owner", Object{Kind: "thing", ID: "1", Owner: me, Custodian: "x", Members: []string{me}}},
	{"custody", Object{Kind: "thing", ID: "1", Owner: "x", Custodian: me}},
	{"own", Object{Kind: "thing", ID: "1", Owner: me, Members: []string{me}}},
	{"author", Object{Kind: "thing", ID: "1", Owner: "x", Authors: []string{me}}},
}

// TestGolden compares every operation × role × object with the table that people read in review.
func TestGolden(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# operation, role: objects on which it is allowed (other project, own project, owned, in custody, owned and in nobody's custody, made by the caller)\n")
	for _, op := range Operations() {
		for _, role := range append(Roles, "nobody", "service custodian", "service operator") {
			p := Principal{Subject: me, Kind: "person", Roles: []string{role}}
			if rest, ok := strings.CutPrefix(role, "service "); ok {
				p.Kind, p.Roles = "service", []string{rest}
			}
			var ok []string
			for _, o := range objects {
				if e.Allowed(p, op, o.Object) {
					ok = append(ok, o.name)
				}
			}
			b.WriteString(strings.TrimRight(fmt.Sprintf("%-24s %-18s %s", op, role, strings.Join(ok, " ")), " ") + "\n")
		}
	}
	got := b.String()
	const golden = "testdata/table.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("who may do what has changed (-table +now); if that is meant, run with -update and have it reviewed:\n%s", diff)
	}
}

func TestZeroValuesAreDenied(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	good := Principal{Subject: me, Kind: "person", Roles: Roles}
	for name, denied := range map[string]bool{
		"no principal":   !e.Allowed(Principal{}, "workspace.list", Object{Kind: "thing"}),
		"no roles":       !e.Allowed(Principal{Subject: me, Kind: "person"}, "workspace.list", Object{Kind: "thing"}),
		"unknown role":   !e.Allowed(Principal{Subject: me, Kind: "person", Roles: []string{"admin"}}, "workspace.list", Object{Kind: "thing"}),
		"no operation":   !e.Allowed(good, "", Object{Kind: "thing"}),
		"unknown":        !e.Allowed(good, "workspace.steal", Object{Kind: "thing"}),
		"a group's name": !e.Allowed(good, "look", Object{Kind: "thing"}),
		"no object":      !e.Allowed(good, "workspace.list", Object{}),
		"empty subject owns nothing": !e.Allowed(Principal{Kind: "person", Roles: Roles}, "workspace.delete",
			Object{Kind: "thing"}),
	} {
		if !denied {
			t.Errorf("%s: allowed", name)
		}
	}
}

// TestOwn: only where nothing but one's own hand stands in the way is another person the answer.
func TestOwn(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	mine := Object{Kind: "thing", ID: "1", Owner: me, Authors: []string{me}}
	others := Object{Kind: "thing", ID: "1", Owner: "x", Authors: []string{"x"}}
	for _, row := range []struct {
		op           Operation
		role, person string
		on           Object
		own          bool
	}{
		{"policy.activate", "custodian", "person", mine, true},
		{"floor.activate", "operator", "person", mine, true},
		{"image.approve", "custodian", "person", mine, true},
		{"quarantine.lift", "operator", "person", mine, true},
		{"policy.activate", "operator", "person", mine, false}, // has proposed it, and has lost the role since
		{"policy.activate", "nobody", "person", mine, false},
		{"policy.activate", "custodian", "service", mine, false}, // a person's, whoever made it
		{"policy.activate", "custodian", "person", others, false},
		{"policy.create", "operator", "person", mine, false},
	} {
		v := e.Decide(Principal{Subject: me, Kind: row.person, Roles: []string{row.role}}, row.op, row.on)
		if (v.Own != "") != row.own || v.Own != "" && v.Allowed {
			t.Errorf("%s by a %s %s on %+v: %+v", row.op, row.person, row.role, row.on, v)
		}
	}
}

func BenchmarkAllowed(b *testing.B) {
	e, err := New()
	if err != nil {
		b.Fatal(err)
	}
	p := Principal{Subject: me, Kind: "person", Roles: []string{"researcher"}}
	for b.Loop() {
		if !e.Allowed(p, "workspace.get", objects[1].Object) {
			b.Fatal("denied")
		}
	}
}
