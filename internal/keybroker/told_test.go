package keybroker

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// TestTheLogTellsWhatMatters: which arming it was, and which header a guest says it has written, stand in the entry itself,
// not only in rows that an administrator can change.
func TestTheLogTellsWhatMatters(t *testing.T) {
	r := newRig(t)
	r.ready(testWorkspace)
	for action, want := range map[string]map[string]any{
		"guest.arm":       {"generation": 1.0, "epoch": 1.0, "volume": "vol-" + testWorkspace},
		"guest.formatted": {"header": testHeader},
	} {
		var body []byte
		if err := r.db.QueryRow(t.Context(), `SELECT body FROM audit_entry WHERE action = $1 UNION ALL SELECT body FROM audit_inbox WHERE action = $1`, action).Scan(&body); err != nil {
			t.Errorf("%s: %v", action, err)
			continue
		}
		var entry struct {
			Details map[string]any `json:"details"`
		}
		if err := json.Unmarshal(body, &entry); err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if entry.Details[name] != value {
				t.Errorf("%s: %s is %v, want %v", action, name, entry.Details[name], value)
			}
		}
	}
}

// TestStateTellsTheLeasesEnd: explain says until when the guest holds the key.
func TestStateTellsTheLeasesEnd(t *testing.T) {
	r := newRig(t)
	_, answer, _ := r.ready(testWorkspace)
	s, err := r.broker.State(t.Context(), testWorkspace)
	if err != nil {
		t.Fatal(err)
	}
	until, err := time.Parse(time.RFC3339, answer.Lease.Until)
	if err != nil {
		t.Fatal(err)
	}
	// What the guest is told has whole seconds.
	if !s.LeaseLive || !s.LeaseUntil.Truncate(time.Second).Equal(until) {
		t.Errorf("live %v until %v, want %v", s.LeaseLive, s.LeaseUntil, until)
	}
}

// TestNoChallengeForAPurposeThatIsNotServed: rotation has a purpose in the protocol and no way in here.
func TestNoChallengeForAPurposeThatIsNotServed(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	for _, purpose := range []door.Purpose{door.Rotate, purposeSecret, ""} {
		_, err := r.broker.Challenge(t.Context(), door.ChallengeRequest{Workspace: testWorkspace, Generation: 1, Purpose: purpose}, "192.0.2.1")
		if refused := refusalOf(t, err, CodeBinding); !refused.Counted {
			t.Errorf("%q: a stranger's refusal does not say that nothing was kept of it", purpose)
		}
	}
}

// TestTheNewestRootStays: also when nothing is wrapped under it yet.
func TestTheNewestRootStays(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	epochs, err := r.ring.Epochs(ctx)
	if err != nil || len(epochs) != 1 {
		t.Fatalf("epochs %v, %v", epochs, err)
	}
	if err := r.broker.DestroyRoot(ctx, epochs[0]); !errors.Is(err, ErrRootInUse) {
		t.Errorf("the newest root: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM audit_inbox WHERE action = 'root.destroy'`); n != 0 {
		t.Error("the log says that it was destroyed")
	}
	if after, err := r.ring.Epochs(ctx); err != nil || len(after) != 1 {
		t.Errorf("epochs %v, %v", after, err)
	}
}
