package collateral

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
)

// State says how well collateral speaks for the present.
type State string

// The states, from best to worst. The zero value is none of them.
const (
	Fresh   State = "fresh"   // inside its window
	Stale   State = "stale"   // past its end, inside the grace
	Expired State = "expired" // outside both, or from the future
	Missing State = "missing"
)

// Vendor fetches objects; *HTTPVendor is the one of production. It is called by one goroutine for each vendor.
type Vendor interface {
	// Fetch returns the object of the subject, with what else came in the same answer. A *VendorError says what the vendor said.
	Fetch(ctx context.Context, of attest.Subject) ([]Found, error)
}

// Found is an object with the issuer chain (PEM) that came with one of Intel's. Nothing in it is proved.
type Found struct {
	Object attest.Object
	Chain  []byte
	// VLEK: of AMD's two lists of a line this is the one of providers' keys, as its address says and its bytes do not.
	VLEK bool
}

// Config is what a Service needs. Fields without a stated default must be set.
type Config struct {
	DB     *pgxpool.Pool
	Audit  *audit.Recorder
	Roots  *attest.Roots
	Logger *zap.Logger
	// Vendor is who is asked; nil: nobody, ever.
	Vendor Vendor
	// Base are objects from the configuration: believed as the configuration is, and used beside those in the database.
	Base []attest.Object
	// Grace is how long after its end a revocation list of AMD's still speaks. Zero: not at all. At most 24 hours.
	Grace time.Duration
	// Refresh is how often lists, TCB infos and identities are fetched anew. Default 24 hours.
	Refresh time.Duration
	// Budget is how many requests the evidence of one project may cause at once; one more is allowed every BudgetEvery.
	// Defaults 10 and 10 seconds.
	Budget      int
	BudgetEvery time.Duration
	// Now is the clock, Jitter a number in [0, 1) that spreads retries; defaults time.Now and a random one.
	Now     func() time.Time
	Jitter  func() float64
	Metrics prometheus.Registerer
}

const (
	maxGrace    = 24 * time.Hour
	negative    = time.Hour // how long "the vendor does not have it" is believed
	pollEvery   = 2 * time.Second
	maxAsked    = 4096
	maxProjects = 4096
)

// Service keeps collateral. Make it with New, then Load, and run Run beside it.
type Service struct {
	Config
	holder  string
	snap    atomic.Pointer[snapshot]
	metrics *metrics

	mu      sync.Mutex
	asked   map[attest.Subject]time.Time // until when a subject is not asked for again
	pending []attest.Subject
	buckets map[string]*bucket
	graced  map[attest.Digest]bool
	wake    chan struct{}

	notBefore map[string]time.Time // by vendor: Retry-After; only the fetching loop touches it
}

// New checks the configuration; it does no I/O.
func New(c Config) (*Service, error) {
	if c.Refresh == 0 {
		c.Refresh = 24 * time.Hour
	}
	if c.Budget == 0 {
		c.Budget = 10
	}
	if c.BudgetEvery == 0 {
		c.BudgetEvery = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = randomJitter
	}
	switch {
	case c.DB == nil, c.Audit == nil, c.Roots == nil, c.Logger == nil:
		return nil, errors.New("making the collateral service: a part is missing")
	case c.Grace < 0 || c.Grace > maxGrace || c.Refresh < time.Minute || c.Budget < 1 || c.BudgetEvery < time.Millisecond:
		return nil, errors.New("making the collateral service: grace, refresh or budget is out of range")
	}
	s := &Service{
		Config: c, holder: newHolder(), metrics: newMetrics(c.Metrics), asked: make(map[attest.Subject]time.Time),
		buckets: make(map[string]*bucket), graced: make(map[attest.Digest]bool), wake: make(chan struct{}, 1), notBefore: make(map[string]time.Time),
	}
	empty, err := s.build(nil)
	if err != nil {
		return nil, err
	}
	s.snap.Store(empty)
	return s, nil
}

// For returns what is at hand for this evidence, from memory; with a *attest.Refusal of code collateral if something that
// every verdict on it needs is missing, which is then fetched if the project's budget allows. What is returned beside a
// refusal is usable: a verdict under it refuses for the same reason, and can be replayed.
//
// Only the first use of a list in its grace goes to the database, to be audited.
func (s *Service) For(ctx context.Context, project string, ev attest.Evidence) (attest.Collateral, State, error) {
	now, snap := s.Now(), s.snap.Load()
	col, state := snap.col, Fresh
	if attest.ReportsVLEK(ev) {
		col.CRLs = snap.vlekCRLs
	}
	var absent []attest.Subject
	var refused *attest.Refusal
	for _, need := range attest.Needs(ev) {
		kept, ok := snap.current[need]
		switch {
		case ok && kept.covers(now):
		case ok && need.Kind == attest.KindAMDCRL && s.Grace > 0 && !now.Before(kept.From) && now.Before(kept.Until.Add(s.Grace)):
			if err := s.useGrace(ctx, kept, now); err != nil {
				return attest.Collateral{}, state, err
			}
			col.Grace = s.Grace
			state = worse(state, Stale)
			absent = append(absent, need)
		case ok:
			state = worse(state, Expired)
			absent = append(absent, need)
		case need.Kind == attest.KindVCEK && len(ev.Certificates) > 0:
			// The certificate came with the evidence; whether it is good is for the verdict.
		default:
			absent = append(absent, need)
			if need.Kind != attest.KindAMDCRL { // whether a list is needed is the policy's word
				state = worse(state, Missing)
				refused = &attest.Refusal{Code: attest.CodeCollateral, Check: "collateral", Detail: need.Kind + " is not at hand"}
			}
		}
	}
	s.metrics.answers.WithLabelValues(string(state)).Inc()
	if len(absent) > 0 && s.Vendor != nil {
		s.ask(project, absent, now)
	}
	if refused != nil {
		return col, state, refused
	}
	return col, state, nil
}

func worse(a, b State) State {
	rank := map[State]int{Fresh: 0, Stale: 1, Expired: 2, Missing: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// ask notes what evidence needs, at most once while the answer is out and never beyond the project's budget.
func (s *Service) ask(project string, of []attest.Subject, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, subject := range of {
		if until, known := s.asked[subject]; known && now.Before(until) {
			continue
		}
		if len(s.asked) >= maxAsked {
			s.forgetAsked(now)
		}
		if len(s.asked) >= maxAsked || !s.bucket(project, now).take(now) {
			s.metrics.overBudget.Inc()
			continue
		}
		s.asked[subject] = now.Add(negative)
		s.pending = append(s.pending, subject)
	}
	if len(s.pending) > 0 {
		s.poke()
	}
}

func (s *Service) forgetAsked(now time.Time) {
	for subject, until := range s.asked {
		if !now.Before(until) {
			delete(s.asked, subject)
		}
	}
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// bucket is a project's budget: tokens that come back one by one.
type bucket struct {
	tokens, most float64
	every        time.Duration
	at           time.Time
}

func (s *Service) bucket(project string, now time.Time) *bucket {
	b := s.buckets[project]
	if b == nil {
		if len(s.buckets) >= maxProjects {
			clear(s.buckets) // projects are people's; so many at once are a fault, and a full bucket harms little
		}
		b = &bucket{tokens: float64(s.Budget), most: float64(s.Budget), every: s.BudgetEvery, at: now}
		s.buckets[project] = b
	}
	return b
}

func (b *bucket) take(now time.Time) bool {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens, b.at = min(b.most, b.tokens+float64(passed)/float64(b.every)), now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Run keeps memory as the database is and, while it holds the lease, fetches what is due, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := s.step(ctx); err != nil && ctx.Err() == nil {
			s.Logger.Warn("keeping collateral", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// step is one turn of Run.
func (s *Service) step(ctx context.Context) error {
	if err := s.writePending(ctx); err != nil {
		return err
	}
	if s.Vendor != nil {
		leads, err := s.lead(ctx)
		if err != nil {
			return err
		}
		if leads {
			if err := s.fetchDue(ctx); err != nil {
				return err
			}
		}
	}
	return s.reload(ctx)
}

// Load reads the database into memory. Until it has returned nothing is known.
func (s *Service) Load(ctx context.Context) error {
	if err := s.reload(ctx); err != nil {
		return fmt.Errorf("loading collateral: %w", err)
	}
	return nil
}
