package api

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
)

// denied returns what the entries about many denials count, by operation, for one caller or for siestad itself.
func (r *rig) denied(subject, code, operation string) (n int) {
	r.t.Helper()
	list, err := r.log.List(context.Background(), audit.Filter{Action: "access.deny", Outcome: audit.Refused, Limit: 1000})
	must(r.t, err)
	for _, e := range list {
		var body struct {
			Details map[string]any `json:"details"`
		}
		must(r.t, json.Unmarshal(e.Body, &body))
		if e.Actor.Subject == subject && e.Code == code {
			counted, _ := body.Details[operation].(float64)
			n += int(counted)
		}
	}
	return n
}

func (r *rig) flush() {
	r.t.Helper()
	_, _, err := r.log.WaitID(context.Background(), r.server.flushOnce(context.Background()))
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

// named returns the objects that the entries about many denials of one caller name.
func (r *rig) named(subject string) map[string][]string {
	r.t.Helper()
	list, err := r.log.List(context.Background(), audit.Filter{Action: "access.deny", Outcome: audit.Refused, Limit: 1000})
	must(r.t, err)
	objects := map[string][]string{}
	for _, e := range list {
		var body struct {
			Details struct {
				Objects map[string][]string `json:"objects"`
			} `json:"details"`
		}
		must(r.t, json.Unmarshal(e.Body, &body))
		if e.Actor.Subject == subject {
			maps.Copy(objects, body.Details.Objects)
		}
	}
	return objects
}

// TestReadsUseUpNoBudgetOfChanges: whoever has used up what is noted of his or her reads is still named with what he or she
// wanted to do, as far as that is there to be seen; and even beyond that budget, with the first objects.
func TestReadsUseUpNoBudgetOfChanges(t *testing.T) {
	r := newRig(t)
	clock := &testClock{}
	r.server.denials.now, r.server.changes.now = clock.now, clock.now
	ann := r.person("ann", "operator", "custodian")
	image := func() string {
		var img gen.Image
		r.want(201, ann, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(t, &img)
		return img.ID
	}
	var quarantine gen.Quarantine
	r.want(201, ann, "POST", "/v1/quarantines", map[string]any{"kind": "product", "value": "Milan", "reason": "x"}).into(t, &quarantine)
	for range denialsBurst + 1 {
		r.want(404, ann, "GET", "/v1/workspaces/"+anyULID, nil)
	}
	if n := r.audited("workspace.get", audit.Refused, "hidden"); n != denialsBurst {
		t.Fatalf("%d entries about reads", n)
	}

	own := image()
	r.want(403, ann, "POST", "/v1/images/"+own+"/approve", nil)
	r.want(403, ann, "POST", "/v1/quarantines/"+quarantine.ID+"/lift", nil)
	if n := r.audited("image.approve", audit.Refused, "self-approval"); n != 1 {
		t.Errorf("%d entries about the approval of one's own image", n)
	}
	if n := r.audited("quarantine.lift", audit.Refused, "self-approval"); n != 1 {
		t.Errorf("%d entries about the end of one's own quarantine", n)
	}

	// Nor do ids that nothing has take the room of those that have something.
	for range changesBurst + maxObjects {
		r.want(404, ann, "POST", "/v1/images/"+anyULID+"/approve", nil)
	}
	var all []string
	for range maxObjects + 1 {
		all = append(all, "image/"+image())
		r.want(403, ann, "POST", "/v1/"+strings.Replace(all[len(all)-1], "image", "images", 1)+"/approve", nil)
	}
	r.want(403, ann, "POST", "/v1/quarantines/"+quarantine.ID+"/lift", nil)
	r.flush()
	got := r.named(ann.subject)
	if !slices.Equal(got["image.approve"], all[:maxObjects]) || !slices.Equal(got["quarantine.lift"], []string{"quarantine/" + quarantine.ID}) || len(got) != 2 {
		t.Errorf("beyond the budget, %v are named", got)
	}
	if n := r.denied(ann.subject, "budget", "image.approve"); n != 2+maxObjects+maxObjects+1 {
		t.Errorf("%d denials of approvals are counted", n)
	}
}

// TestRefusalsCannotBeCountedInManyNames: what is remembered until the next entry is bounded.
func TestRefusalsCannotBeCountedInManyNames(t *testing.T) {
	r := newRefusals()
	for i := range 3 * maxNamed {
		r.count(crowd{audit.Actor{Kind: audit.Person, Subject: string(rune('a' + i))}, others.action, others.code}, "x", 1)
	}
	taken := r.taken()
	if len(taken) > maxNamed+1 || taken[others].counts["x"] != 2*maxNamed {
		t.Errorf("%d names, %d of others", len(taken), taken[others].counts["x"])
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
