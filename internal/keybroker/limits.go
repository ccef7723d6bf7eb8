package keybroker

import (
	"sync"
	"time"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Rates. A genuine guest makes no mistakes, so a peer pays only for refusals and a whole site behind one address is not
// slowed down. What a workspace pays bounds the rows and the work that somebody who knows its id can cause.
const (
	peerBurst, peerEvery           = 60, time.Second
	workspaceBurst, workspaceEvery = 32, 2 * time.Second
	recordBurst, recordEvery       = 30, time.Minute
	sessionBurst, sessionEvery     = 300, 100 * time.Millisecond // a site's guests may share an address
	secretBurst, secretEvery       = 64, time.Second
	maxBuckets                     = 16384
	maxOutstanding                 = 16   // unused challenges of a workspace at one time
	maxSessions                    = 8192 // unused sessions of /kbs/v0 at one time, of everybody
)

type bucket struct {
	tokens float64
	at     time.Time
}

// limits are token buckets in memory. Losing them in a restart gives everybody a fresh burst, no more.
type limits struct {
	now        func() time.Time
	mu         sync.Mutex
	peers      map[string]bucket // paid by refusals
	workspaces map[string]bucket // paid by challenges
	records    map[string]bucket // paid by refusals kept with their evidence
	sessions   map[string]bucket // paid by the sessions that a peer opens
	secrets    map[string]bucket // paid by the secrets that a workspace asks for
}

func newLimits(now func() time.Time) *limits {
	return &limits{
		now: now, peers: map[string]bucket{}, workspaces: map[string]bucket{}, records: map[string]bucket{},
		sessions: map[string]bucket{}, secrets: map[string]bucket{},
	}
}

// take removes cost tokens if they are there. Cost 0 asks whether one is left.
func (l *limits) take(m map[string]bucket, key string, burst int, every time.Duration, cost float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b, ok := m[key]
	if !ok {
		if len(m) >= maxBuckets {
			for old := range m {
				delete(m, old)
				break
			}
		}
		b = bucket{tokens: float64(burst), at: now}
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(float64(burst), b.tokens+d.Seconds()/every.Seconds())
		b.at = now
	}
	if b.tokens < 1 {
		m[key] = b
		return false
	}
	b.tokens -= cost
	m[key] = b
	return true
}

func (l *limits) peerAllowed(peer string) bool {
	return l.take(l.peers, peer, peerBurst, peerEvery, 0)
}
func (l *limits) peerRefused(peer string) { l.take(l.peers, peer, peerBurst, peerEvery, 1) }
func (l *limits) challenge(workspace string) bool {
	return l.take(l.workspaces, workspace, workspaceBurst, workspaceEvery, 1)
}

// session is paid in advance, other than a challenge: it names no workspace that could be held to it.
func (l *limits) session(peer string) bool {
	return l.take(l.sessions, peer, sessionBurst, sessionEvery, 1)
}

func (l *limits) secret(workspace string) bool {
	return l.take(l.secrets, workspace, secretBurst, secretEvery, 1)
}

func (l *limits) record(workspace string) bool {
	return l.take(l.records, workspace, recordBurst, recordEvery, 1)
}

// aggregate counts the refusals that leave no rows of their own, to be written as one entry a minute.
type aggregate struct {
	mu     sync.Mutex
	counts map[string]int
}

func newAggregate() *aggregate { return &aggregate{counts: map[string]int{}} }

func (a *aggregate) add(code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[code]++
}

// entry takes the counts out.
func (a *aggregate) entry() (audit.Entry, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.counts) == 0 {
		return audit.Entry{}, false
	}
	details := make(map[string]any, len(a.counts))
	for code, n := range a.counts {
		details[code] = n
	}
	a.counts = map[string]int{}
	return audit.Entry{Actor: systemActor, Action: "guest.refuse_many", Object: "door", Outcome: audit.Refused, Code: "aggregate", Details: details}, true
}

// restore puts the counts of an entry back that could not be written.
func (a *aggregate) restore(e audit.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for code, n := range e.Details {
		if n, ok := n.(int); ok {
			a.counts[code] += n
		}
	}
}
