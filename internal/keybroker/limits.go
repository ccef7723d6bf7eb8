package keybroker

import (
	"sync"
	"time"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Rates. What an address spends beyond them costs it time and nothing else (see line), for a whole site may share it with a
// stranger, and a workspace's id is no secret. What a workspace is refused for, only evidence that was judged good can spend.
const (
	peerBurst, peerEvery           = 60, time.Second             // refusals of an address
	challengeBurst, challengeEvery = 32, 2 * time.Second         // challenges of a workspace for an address
	sessionBurst, sessionEvery     = 300, 100 * time.Millisecond // sessions of /kbs/v0 for an address
	leaseBurst, leaseEvery         = 60, 10 * time.Second        // grants of a workspace; more often where leases are short
	attestBurst, attestEvery       = 30, 10 * time.Second        // tokens of a boot, or of a workspace on one Intel platform
	secretBurst, secretEvery       = 64, time.Second             // secrets of a workspace
	recordBurst, recordEvery       = 30, time.Minute             // refusals of a workspace that are kept
	keepBurst, keepEvery           = 1000, 10 * time.Second      // unproved evidence that is kept, of all workspaces
	maxBuckets                     = 16384
	maxIdleSessions                = 8192             // rows of sessions that were not attested, of everybody
	clearEvery                     = 256              // sessions of this process, until the idle ones are cleared away again
	freshSession                   = 30 * time.Second // no session goes that soon
	linePlaces, lineLength         = 2, 256
	peerWaiting                    = 1024 // of an address: a site of a thousand guests boots in one moment
	allWaiting                     = 4096 // of all addresses: each holds a request that was read
)

type bucket struct {
	tokens float64
	at     time.Time
}

// limits are token buckets in memory. Losing them in a restart gives everybody a fresh burst, no more.
type limits struct {
	now        func() time.Time
	mu         sync.Mutex
	peers      map[string]*account
	waiting    int // at all accounts
	challenges map[string]bucket
	sessions   map[string]bucket
	leases     map[string]bucket
	attests    map[string]bucket
	secrets    map[string]bucket
	records    map[string]bucket
}

func newLimits(now func() time.Time) *limits {
	return &limits{
		now: now, peers: map[string]*account{}, challenges: map[string]bucket{}, sessions: map[string]bucket{}, leases: map[string]bucket{},
		attests: map[string]bucket{}, secrets: map[string]bucket{}, records: map[string]bucket{},
	}
}

// fill adds what has come since the last time, up to most.
func (b *bucket) fill(now time.Time, most float64, every time.Duration) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(most, b.tokens+d.Seconds()/every.Seconds())
		b.at = now
	}
}

// room forgets an arbitrary entry of a map that is full.
func room[V any](m map[string]V) {
	if len(m) < maxBuckets {
		return
	}
	for old := range m {
		delete(m, old)
		return
	}
}

// take removes a token if one is there.
func (l *limits) take(m map[string]bucket, key string, burst int, every time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b, ok := m[key]
	if !ok {
		room(m)
		b = bucket{tokens: float64(burst), at: now}
	}
	b.fill(now, float64(burst), every)
	ok = b.tokens >= 1
	if ok {
		b.tokens--
	}
	m[key] = b
	return ok
}

func (l *limits) challenge(workspace, peer string) bool {
	return l.take(l.challenges, workspace+" "+peer, challengeBurst, challengeEvery)
}

func (l *limits) session(peer string) bool {
	return l.take(l.sessions, peer, sessionBurst, sessionEvery)
}

// lease is paid by unlocks and renewals. life is the shortest that a lease has: an honest guest renews it twice.
func (l *limits) lease(workspace string, life time.Duration) bool {
	return l.take(l.leases, workspace, leaseBurst, min(leaseEvery, life/8))
}

// attest is paid by boots; see spender.
func (l *limits) attest(workspace string, spender []byte) bool {
	return l.take(l.attests, workspace+" "+string(spender), attestBurst, attestEvery)
}

func (l *limits) secret(workspace string) bool {
	return l.take(l.secrets, workspace, secretBurst, secretEvery)
}

// cause is whose doing a refusal is.
type cause string

const (
	unproved cause = "unproved" // whoever has heard of the workspace
	proved   cause = "proved"   // a guest whose evidence was judged good
	ours     cause = "ours"     // the key store, or this side of the door
)

// record is whether a refusal is kept. Each cause has a bucket of its own for each workspace, so that nobody can have what
// others do go unrecorded; what strangers send is bounded for all workspaces together as well, for it is kept for good.
func (l *limits) record(workspace string, why cause) bool {
	// The workspace's own first: who floods one takes little of what is there for all.
	return l.take(l.records, string(why)+" "+workspace, recordBurst, recordEvery) &&
		(why != unproved || l.take(l.records, "", keepBurst, keepEvery))
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
