package keybroker

import (
	"context"
	"errors"
	"flag"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

// model is what a person would expect of one workspace after any sequence of events.
type model struct {
	r *rig

	state     string // of the arm
	formatted bool
	frozen    bool
	holder    *guest // of the live lease
	lease     string
	released  *guest // to whom the arming was released
	seq       int
}

// TestAnySequence drives one workspace through random sequences and compares every answer with the model: above all, no
// release that the model forbids ever happens.
func TestAnySequence(t *testing.T) {
	// Every step is several transactions that wait for the disk; a longer search is asked for by the flag.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := flag.Set("rapid.checks", "20"); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t)
	ctx := context.Background()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		ws := "01jmachine" + string(rune('a'+n%26)) + string(rune('a'+n/26%26))
		r.exec(`DELETE FROM freeze_order`)
		r.prepareAndArm(ws)
		m := &model{r: r, state: stateArmed}
		guests := []*guest{r.boot(ws, 1), r.boot(ws, 1), r.boot(ws, 1)}
		pick := func(rt *rapid.T) *guest { return rapid.SampledFrom(guests).Draw(rt, "guest") }
		rt.Repeat(map[string]func(*rapid.T){
			"unlock": func(rt *rapid.T) {
				g := pick(rt)
				r.broker.limits = newLimits(r.clock.now)
				answer, _, err := g.grant(door.Unlock)
				want := m.unlock(g)
				if (err == nil) != want {
					rt.Fatalf("unlock: %v, the model says %v", err, want)
				}
				if err == nil {
					m.holder, m.released, m.lease, m.seq = g, g, answer.Lease.ID, 0
				}
			},
			"renew": func(rt *rapid.T) {
				g := pick(rt)
				r.broker.limits = newLimits(r.clock.now)
				_, _, err := g.grant(door.Renew)
				want := m.state == stateReleased && !m.frozen && g == m.released && g == m.holder
				if (err == nil) != want {
					rt.Fatalf("renew: %v, the model says %v", err, want)
				}
			},
			"format": func(rt *rapid.T) {
				if m.holder == nil || m.formatted {
					return
				}
				m.seq++
				if _, err := m.holder.event(m.lease, m.seq, door.Formatted, testHeader); err != nil {
					rt.Fatal(err)
				}
				m.formatted = true
			},
			"stop": func(rt *rapid.T) {
				if m.holder == nil {
					return
				}
				m.seq++
				if _, err := m.holder.event(m.lease, m.seq, door.Stopping, ""); err != nil {
					rt.Fatal(err)
				}
				m.holder = nil
			},
			"expire": func(*rapid.T) {
				r.exec(`UPDATE broker_lease SET until = now() WHERE workspace = $1 AND state = 'live'`, ws)
				m.holder = nil
			},
			"freeze": func(*rapid.T) {
				r.exec(`DELETE FROM freeze_order`)
				if m.frozen = !m.frozen; m.frozen {
					r.exec(freezeSQL("site", testSite))
				}
			},
			"reboot": func(rt *rapid.T) {
				err := r.tx(func(tx pgx.Tx) error {
					return errors.Join(r.broker.EndLease(ctx, tx, ws, "reboot"), r.broker.Rearm(ctx, tx, ws, 1, "reboot"))
				})
				if (err == nil) != (m.state != stateSuspended && m.holder == nil) {
					rt.Fatalf("reboot of a %s generation: %v", m.state, err)
				}
				if err == nil {
					if m.state == stateReleased {
						m.released = nil
					}
					m.state, m.holder = stateArmed, nil
				}
			},
			"allow": func(rt *rapid.T) {
				err := r.tx(func(tx pgx.Tx) error {
					_, err := r.broker.AllowReboot(ctx, tx, audit.Actor{Kind: audit.Person, Subject: testOwner}, ws)
					return err
				})
				want := m.state != stateArmed && m.holder == nil
				if (err == nil) != want {
					rt.Fatalf("allow in state %s: %v", m.state, err)
				}
				if err == nil {
					m.state, m.released = stateArmed, nil
				}
			},
			"": func(rt *rapid.T) {
				if n := r.count(`SELECT count(*) FROM broker_lease WHERE workspace = $1 AND state = 'live' AND until > now()`, ws); n != map[bool]int{true: 1}[m.holder != nil] {
					rt.Fatalf("%d live leases", n)
				}
				s, err := r.broker.State(ctx, ws)
				if err != nil || s.Suspended != (m.state == stateSuspended) || s.Armed != (m.state == stateArmed) || s.HeaderRecorded != m.formatted {
					rt.Fatalf("state %+v, %v; the model says %s", s, err, m.state)
				}
			},
		})
	})
}

// unlock moves the model and says whether the key is released.
func (m *model) unlock(g *guest) bool {
	switch {
	case m.state == stateSuspended:
		return false
	case m.state == stateReleased && m.formatted && g != m.released:
		m.state = stateSuspended
		return false
	case m.state == stateReleased && m.formatted:
		return false
	case m.frozen, m.holder != nil:
		return false
	}
	m.state = stateReleased
	return true
}
