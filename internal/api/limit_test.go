package api

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// denied returns what the entries about many denials count, by operation, for one caller or for siestad itself.
func (r *rig) denied(subject, code, operation string) (n int) {
	r.t.Helper()
	list, err := r.log.List(context.Background(), audit.Filter{Action: "access.deny", Outcome: audit.Refused, Limit: 1000})
	must(r.t, err)
	for _, e := range list {
		var body struct {
			Details map[string]int `json:"details"`
		}
		must(r.t, json.Unmarshal(e.Body, &body))
		if e.Actor.Subject == subject && e.Code == code {
			n += body.Details[operation]
		}
	}
	return n
}

func (r *rig) flush() {
	r.t.Helper()
	_, err := r.log.Wait(context.Background(), r.server.flushOnce(context.Background()))
	must(r.t, err)
}

// TestDenialsHaveABudget: a caller without a role has no entries of his own, anybody else as many as anybody needs. What is
// beyond is counted, by caller and operation.
func TestDenialsHaveABudget(t *testing.T) {
	r := newRig(t)
	clock := &testClock{}
	r.server.denials.now = clock.now
	eve, ann, bob := r.person("eve"), r.person("ann", "researcher"), r.person("bob", "researcher")
	for range 20 {
		r.want(403, eve, "GET", "/v1/workspaces", nil)
		r.want(404, eve, "GET", "/v1/workspaces/"+anyULID, nil)
	}
	for range denialsBurst + 7 {
		r.want(403, ann, "GET", "/v1/audit/entries", nil)
	}
	if n := r.audited("audit.read", audit.Refused, "policy"); n != denialsBurst {
		t.Errorf("%d entries of one caller, want %d", n, denialsBurst)
	}
	r.want(403, bob, "GET", "/v1/audit/entries", nil)
	clock.advance(10 * time.Second)
	r.want(403, ann, "GET", "/v1/audit/entries", nil)
	if n := r.audited("audit.read", audit.Refused, "policy"); n != denialsBurst+2 {
		t.Errorf("%d entries after ten seconds and of another caller, want %d", n, denialsBurst+2)
	}
	if n := r.audited("workspace.list", audit.Refused, "policy") + r.audited("workspace.get", audit.Refused, "hidden"); n != 0 {
		t.Errorf("a caller without a role has %d entries", n)
	}
	r.flush()
	for name, n := range map[string][2]int{
		"a caller without a role": {r.denied("siestad", "no_role", "workspace.list") + r.denied("siestad", "no_role", "workspace.get"), 40},
		"one beyond the budget":   {r.denied(ann.subject, "budget", "audit.read"), 7},
		"one within it":           {r.denied(bob.subject, "budget", "audit.read"), 0},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d denials are counted, want %d", name, n[0], n[1])
		}
	}
}

// TestRefusalsCannotBeCountedInManyNames: what is remembered until the next entry is bounded.
func TestRefusalsCannotBeCountedInManyNames(t *testing.T) {
	r := newRefusals()
	for i := range 3 * maxNamed {
		r.count(crowd{audit.Actor{Kind: audit.Person, Subject: string(rune('a' + i))}, others.action, others.code}, "x", 1)
	}
	taken := r.taken()
	if len(taken) > maxNamed+1 || taken[others]["x"] != 2*maxNamed {
		t.Errorf("%d names, %d of others", len(taken), taken[others]["x"])
	}
}

// TestRefusalsAreNotLost: neither when they cannot be written, nor when the service stops.
func TestRefusalsAreNotLost(t *testing.T) {
	r := newRig(t)
	r.want(401, person{token: "x.y.z"}, "GET", "/v1/me", nil)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if id := r.server.flushOnce(gone); id != 0 {
		t.Fatalf("written as %d without a database", id)
	}
	must(t, r.server.Run(gone))
	if n := r.audited("token.verify", audit.Refused, "token"); n != 1 {
		t.Errorf("%d entries under a checkpoint when the service has stopped", n)
	}
}
